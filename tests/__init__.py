"""Tests; `tests.ops.cases` is also what the benchmarks measure."""
