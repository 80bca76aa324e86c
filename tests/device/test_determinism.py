"""The same call, the same bits; and what is absent has no influence, not even as NaN."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twice_the_same_bits(workload, backend, call, dtype):
    first, second = (call(workload.at(dtype)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_poison_in_absent_memory_changes_no_bit(workload, backend, call, dtype):
    if not workload.absent:
        pytest.skip(f"{workload.op} reads everything that it is given")
    clean, poisoned = (call(workload.at(dtype, poisoned=p)) for p in (False, True))
    assert all(torch.equal(x, y) for x, y in zip(clean, poisoned, strict=True))
