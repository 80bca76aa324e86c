"""Triton kernels, one file per op, imported as `robustmdiff.kernels` where Triton is installed."""
