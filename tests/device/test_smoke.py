"""One call of every op on every backend, at a real size where there is a GPU, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(workload, backend, call, plain, exact, dtype):
    tensors = workload.at(dtype)
    ours, theirs, truth = call(tensors), plain(tensors), exact(tensors)
    largest = max(float(x.detach().abs().max()) for x in tensors.values())
    names = ("out", *(f"d{name}" for name in tensors))
    for i, (name, x, y, z) in enumerate(zip(names, ours, theirs, truth, strict=False)):
        assert torch.isfinite(x).all(), name
        budget = (3 if i else 2) * (error(y, z) + torch.finfo(dtype).eps * largest)
        assert error(x, z) <= budget, f"{name}: {error(x, z):.1e}, expected at most {budget:.1e}"
