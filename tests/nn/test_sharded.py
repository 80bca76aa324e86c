"""Layers under FSDP: two processes on the CPU, both of torch's wrappers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_sharded_layers_compute_and_learn_the_same(tmp_path):
    script = str(Path(__file__).with_name("sharded.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
