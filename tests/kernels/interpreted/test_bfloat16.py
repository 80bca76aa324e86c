"""A canary: when this fails, the interpreter has learned bfloat16 and its tests can run in it too."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def add(x, y, out):
    i = tl.arange(0, 16)
    tl.store(out + i, tl.load(x + i) + tl.load(y + i))


def test_the_interpreter_still_computes_bfloat16_wrongly():
    x, y = torch.randn(2, 16, dtype=torch.bfloat16)
    out = torch.zeros(16, dtype=torch.bfloat16)
    add[(1,)](x, y, out)
    assert not torch.allclose(out, x + y, rtol=0.1, atol=0.1)


def test_it_computes_float16_as_torch_does():
    x, y = torch.randn(2, 16, dtype=torch.float16)
    out = torch.zeros(16, dtype=torch.float16)
    add[(1,)](x, y, out)
    assert torch.equal(out, x + y)
