"""What the CUDA kernels of graph_attention say that they take; no GPU needed to ask."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from robustmdiff import _native
from robustmdiff.ops import Graph
from robustmdiff.ops.graph_attention import OP, native


@pytest.fixture(autouse=True)
def _kernels_are_there(monkeypatch):
    monkeypatch.setattr(_native, "missing", lambda *_: None)


def reasons(dtype: torch.dtype, D: int) -> list[str]:
    with FakeTensorMode():
        q = torch.empty(10, 2, D, dtype=dtype, device="cuda")
        rowptr, none = (torch.empty(n, dtype=torch.int64, device="cuda") for n in (11, 0))
        return native.reasons(OP.arguments(q, q, q, Graph(rowptr, none, None, rowptr, none, none)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [1, 7, 64, 256])
def test_takes(dtype, D):
    assert reasons(dtype, D) == []


def test_declines(monkeypatch):
    assert reasons(torch.float32, 257) == ["width 257, and the CUDA kernels take up to 256"]
    assert reasons(torch.float64, 64) == ["float64, and the kernels compute in float32"]
    monkeypatch.setattr(_native, "missing", lambda *_: "torch is built without CUDA")
    assert reasons(torch.float32, 64) == ["torch is built without CUDA"]
