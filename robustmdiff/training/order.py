"""Who is in which batch, and which process has whom: pure functions of the step's number."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from robustmdiff.refusal import Refusal
from robustmdiff.training.budget import Budget

MASKS, NOISE, VALIDATION = 2, 3, 4  # streams of random numbers


class Order:
    """n rows in the batches of a budget's steps, each shared out in `accumulate` parts for each process:
    how a batch is shared changes nothing about who is in it.

    weight float [n]: rows are drawn in proportion to it, with replacement; else each epoch has all once.
    """

    def __init__(
        self,
        n: int,
        budget: Budget,
        seed: int,
        *,
        processes: int = 1,
        accumulate: int = 1,
        weight: Tensor | None = None,
    ) -> None:
        self.n, self.seed, self.weight = n, seed, weight
        self.epoch_steps, self.steps = budget.epoch_steps, budget.steps
        self.processes, self.shares = processes, processes * accumulate
        smallest = n // self.epoch_steps
        if smallest < self.shares:
            raise Refusal(
                f"train: a batch has {smallest} {budget.what}, expected at least one for each of "
                f"{processes} processes x accumulate = {accumulate}"
            )
        self._epoch, self._batches = -1, [np.empty(0, np.int64)]

    def batch(self, step: int) -> np.ndarray:
        """int64 [b], the rows of a step's global batch."""
        epoch, at = divmod(step, self.epoch_steps)
        if epoch != self._epoch:
            self._epoch = epoch
            self._batches = epoch_batches(self.n, self.epoch_steps, epoch, self.seed, self.weight)
        return self._batches[at]

    def places(self, step: int, process: int) -> list[np.ndarray]:
        """The places within the global batch that are this process's, int64, one array for each part."""
        places = np.array_split(np.arange(len(self.batch(step))), self.shares)
        return places[process :: self.processes]


def epoch_batches(
    n: int, steps: int, epoch: int, seed: int, weight: Tensor | None = None
) -> list[np.ndarray]:
    """The global batches of the `steps` steps of one epoch, a pure function of its arguments.

    Every row once, in batches whose sizes differ by one at most (so no batch is a small remainder);
    with `weight` [n], n draws with replacement in proportion to it instead.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    if weight is None:
        order = rng.permutation(n)
    else:
        p = weight.double().numpy()
        order = rng.choice(n, size=n, p=p / p.sum())
    return np.array_split(order, steps)


def random_key(*numbers: int) -> int:
    """A number of 31 bits that is as good as random for each tuple of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
