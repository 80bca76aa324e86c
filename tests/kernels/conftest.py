"""Triton kernels on the CPU: in Triton's interpreter, in a process of its own.

Triton reads TRITON_INTERPRET when a kernel is decorated, so no process can do both. `interpret` starts
such a process over the contract tests of tests/ops and the tests in tests/kernels/interpreted, and fails
with it; it fails too where a test was skipped or none ran.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

from robustmdiff.ops.triton_support import INTERPRETED

ROOT = Path(__file__).parents[2]

# Only where Triton interprets are these tests.
collect_ignore = [] if INTERPRETED else ["interpreted"]


@pytest.fixture
def interpret() -> Callable[..., None]:
    """Run pytest with these arguments in the interpreter."""
    triton = pytest.importorskip(
        "triton", reason="triton is not installed, so it cannot interpret its kernels"
    )
    if Version(triton.__version__) < Version("3.7") and Version(np.__version__) >= Version("2.4"):
        pytest.skip(
            f"triton {triton.__version__} interprets with numpy below 2.4 only, and numpy is {np.__version__}"
        )

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *arguments]
        process = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
        )
        last = process.stdout.strip().splitlines()[-1] if process.stdout.strip() else process.stderr[-500:]
        if process.returncode != 0 or not re.match(r"\d+ passed", last) or "skipped" in last:
            pytest.fail(f"{' '.join(arguments)} in the interpreter: {last}\n{process.stdout[-6000:]}")

    return run
