"""The plan of rows: every row once an epoch, whoever shares the batch."""

import pytest
import torch

from robustmdiff.training.budget import Budget
from robustmdiff.training.rows import RowPlan

CPU = torch.device("cpu")


def plan(n: int, batch_size: int, **options) -> RowPlan:
    budget = Budget("rows", batch_size, max(1, round(n / batch_size)), 3, ())
    return RowPlan([torch.arange(n), torch.arange(n) * 10.0], budget, seed=5, **options)


def test_each_epoch_has_every_row_once_in_an_order_of_its_own():
    rows = plan(23, 5)
    epochs = [
        torch.cat(
            [
                part.inputs[0]
                for s in range(rows.epoch_steps)
                for part in rows.parts(e * rows.epoch_steps + s, 0, CPU)
            ]
        )
        for e in range(3)
    ]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(23))
    assert not torch.equal(epochs[0], epochs[1])


def test_columns_stay_side_by_side_and_ids_belong_to_rows():
    for part in plan(23, 5).parts(2, 0, CPU):
        first, second = part.inputs
        assert torch.equal(second, first * 10.0)
        assert part.ids == [str(i) for i in first.tolist()]


def test_processes_and_parts_share_a_batch_out_and_change_nothing_about_who_is_in_it():
    whole = [part.inputs[0] for part in plan(24, 6).parts(1, 0, CPU)]
    shared = [
        part for process in range(2) for part in plan(24, 6, processes=2, accumulate=2).parts(1, process, CPU)
    ]
    assert len(shared) == 4
    assert sum(part.share for part in shared) == pytest.approx(1)
    together = torch.cat([part.inputs[0] for part in shared])
    assert sorted(together.tolist()) == sorted(whole[0].tolist())


def test_columns_of_different_lengths_are_refused():
    budget = Budget("rows", 2, 2, 1, ())
    with pytest.raises(ValueError, match=r"columns\[1\] has 3 rows, expected 4"):
        RowPlan([torch.zeros(4), torch.zeros(3)], budget, seed=0)
