"""Tests; what they share with the benchmarks is robustmdiff.testing."""
