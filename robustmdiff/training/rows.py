"""What each step sees of tensors that lie side by side: latents, pixels, prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robustmdiff.training.budget import Budget
from robustmdiff.training.contract import Part
from robustmdiff.training.order import Order


class RowPlan:
    """A `Plan` of the rows of `columns`, each [n, ...]: every row once an epoch, in another order each time.
    Its parts' inputs are these rows of each column.

    ids  of the rows, which dropout belongs to; their numbers, unless given
    """

    def __init__(
        self,
        columns: Sequence[Tensor],
        budget: Budget,
        seed: int,
        *,
        processes: int = 1,
        accumulate: int = 1,
        ids: Sequence[str] | None = None,
    ) -> None:
        n = len(columns[0])
        for i, column in enumerate(columns):
            if len(column) != n:
                raise ValueError(f"RowPlan: columns[{i}] has {len(column)} rows, expected {n}, as columns[0]")
        self.columns = tuple(columns)
        self.ids = tuple(ids) if ids is not None else tuple(map(str, range(n)))
        self.order = Order(n, budget, seed, processes=processes, accumulate=accumulate)
        self.epoch_steps, self.steps = budget.epoch_steps, budget.steps

    def parts(self, step: int, process: int, device: torch.device) -> Iterator[Part]:
        index = self.order.batch(step)
        for place in self.order.places(step, process):
            mine = torch.from_numpy(index[place])
            inputs = tuple(column[mine].to(device) for column in self.columns)
            yield Part(inputs, [self.ids[i] for i in mine.tolist()], len(mine) / len(index))
