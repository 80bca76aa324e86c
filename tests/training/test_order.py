from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmdiff.training.budget import budget
from robustmdiff.training.config import LoopConfig
from robustmdiff.training.order import Order, epoch_batches


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(93, 16, {15, 16}), (5, 64, {5}), (100, 40, {50})])
def test_an_epoch_is_everybody_once_in_even_batches(n, batch_size, sizes):
    steps = budget(n, LoopConfig(batch_size=batch_size)).epoch_steps
    batches = epoch_batches(n, steps, epoch=2, seed=5)
    assert {len(b) for b in batches} == sizes
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    for other, equal in [((n, steps, 2, 5), True), ((n, steps, 3, 5), False), ((n, steps, 2, 6), False)]:
        assert np.array_equal(np.concatenate(batches), np.concatenate(epoch_batches(*other))) is equal


def test_sampling_follows_the_weights():
    weight = torch.tensor([1.0] * 900 + [9.0] * 100)
    chosen = np.concatenate([np.concatenate(epoch_batches(1000, 10, e, 0, weight)) for e in range(20)])
    assert abs((chosen >= 900).mean() - 0.5) < 5 * 0.5 / len(chosen) ** 0.5


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (3, 2)])
def test_processes_share_a_batch_without_changing_it(processes, accumulate):
    length = budget(47, LoopConfig(batch_size=12, epochs=2))
    order = Order(47, length, 3, processes=processes, accumulate=accumulate)
    alone = Order(47, length, 3)
    for step in (5, 0, 7):  # in any order: a step needs no other
        assert np.array_equal(order.batch(step), alone.batch(step))
        shares = [order.places(step, process) for process in range(processes)]
        assert {len(share) for share in shares} == {accumulate}
        places = np.concatenate([place for share in shares for place in share])
        assert sorted(places.tolist()) == list(range(len(alone.batch(step))))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a batch has 5 patients, expected at least one for each of 3 proc"):
        Order(11, budget(11, LoopConfig(batch_size=5, epochs=1)), 0, processes=3, accumulate=2)
