"""Which backends of an op a test runs on."""

from __future__ import annotations

from robustmdiff.ops.dispatch import Op
from robustmdiff.ops.triton_support import INTERPRETED
from robustmdiff.testing.case import DEVICE

STANDS_ON_TORCH = ("torch", "definition")  # as exact as torch, but not the same bits at any number of threads


def backends_under_test(op: str) -> list[str]:
    """On a GPU all but the definition, which is no kernel; on the CPU Triton alone in its interpreter
    (TRITON_INTERPRET=1, in a process of its own), every other one elsewhere."""
    having = [backend.name for backend in Op.registry[op].backends]
    if DEVICE != "cpu":
        return [name for name in having if name != "definition"]
    return [name for name in having if (name == "triton") == INTERPRETED]
