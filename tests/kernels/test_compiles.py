"""Every launch of the contract tests, compiled for a GPU: what the interpreter runs need not compile.

A size of 1 becomes a constant, an absent tensor another signature: each such launch is a kernel of its own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustmdiff import use_backend
from robustmdiff.ops.dispatch import Op
from robustmdiff.testing import OPS, all_cases
from tests.device.test_forward import wide_cases


@pytest.fixture
def compiled():
    """compiled(run, arch): the kernels that run() launches, none of which runs."""
    pytest.importorskip("triton", reason="triton is not installed, so its kernels cannot be compiled")
    from tools.ledger.triton import compiled

    return compiled


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_what_the_contract_tests_launch(compiled, monkeypatch, op, dtype):
    backends = [replace(b, reasons=lambda *_, **__: []) for b in Op.registry[op].backends]
    monkeypatch.setattr(Op.registry[op], "backends", tuple(backends))  # on the CPU, where Triton declines

    def run() -> None:
        with use_backend(**{op: "triton"}):
            out = case.run(**tensors)
        torch.autograd.grad(out, list(tensors.values()), torch.ones_like(out))

    for case in [*all_cases(), *wide_cases()]:
        if case.op == op and case.tensors["q"].numel():
            tensors = case.at(dtype)
            kernels = compiled(run, 90)
            assert {name for name, *_ in kernels} >= {"_forward"}, case.name
