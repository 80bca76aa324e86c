"""Each op beside its peers and the machine's limits: `python -m pytest benchmarks`, docs/benchmarks.md."""
