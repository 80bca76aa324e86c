"""What the CUDA kernel of masked_attention says that it takes; no GPU needed to ask."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from robustmdiff import _native
from robustmdiff.ops.masked_attention import native
from robustmdiff.ops.masked_attention.arguments import Arguments


@pytest.fixture(autouse=True)
def _kernels_are_there(monkeypatch):
    monkeypatch.setattr(_native, "missing", lambda *_: None)


def reasons(dtype=torch.float16, D=64, M=3, gradient=False, dropout=False) -> list[str]:
    with FakeTensorMode():
        q, k, v = (
            torch.empty(10, 2, D, dtype=dtype, device="cuda", requires_grad=gradient) for _ in range(3)
        )
        segments = torch.empty(2, M, 2, dtype=torch.int32, device="cuda")
        key = torch.empty(2, dtype=torch.int64, device="cuda") if dropout else None
        settings = None, key, 1.0, False, 0.5 if dropout else 0.0
        return native.reasons(Arguments(q, k, v, segments, segments, *settings))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [8, 64, 200, 256])
def test_takes(dtype, D):
    assert reasons(dtype, D) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": torch.float32}, "float32, and the CUDA kernel"),
        ({"dtype": torch.float64}, "float64"),
        ({"D": 7}, "width 7"),
        ({"D": 264}, "width 264"),
        ({"M": 65}, "65 modalities"),
        ({"gradient": True}, "a gradient is recorded, and CUDA has no backward kernel"),
        ({"dropout": True}, "dropout"),
    ],
    ids=lambda x: str(x)[:20],
)
def test_declines(settings, words):
    (reason,) = reasons(**settings)
    assert words in reason


def test_recording_no_gradient_is_fine():
    with torch.no_grad():
        assert reasons(gradient=True) == []


def test_a_library_that_is_not_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(_native, "missing", lambda *_: "torch is built without CUDA")
    assert reasons() == ["torch is built without CUDA"]
