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

# Of the contracts, those that say something about a kernel: threads do not exist in the interpreter,
# bfloat16 is wrong in it, and the kernels round the softmax weights to 16 bits where the inputs have 16.
CONTRACTS = "triton and not float64 and not bfloat16 and not threads and not strides and not sums_are"


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


@pytest.fixture
def contracts(interpret: Callable[..., None]) -> Callable[..., None]:
    """Run the contract tests of one attention op on its Triton kernels, and what only kernels can get wrong:
    the files in tests/kernels/interpreted that are named. In one process: to start one takes seconds."""
    files = [f"tests/ops/test_{name}.py" for name in ("contracts", "degenerate", "gradients")]

    def run(op: str, *own: str) -> None:
        more = [f"tests/kernels/interpreted/{name}.py" for name in own]
        interpret(*files, *more, "-k", f"interpreted or ({op} and {CONTRACTS})")

    return run
