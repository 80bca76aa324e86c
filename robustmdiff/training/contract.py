"""What the loop is handed: what is minimised, on which batches, how weights are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """A model under its loss: one forward, as Accelerate and DDP want it.

    model  what is trained, averaged and saved; everything that training changes is a parameter or
           a buffer of it
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    #: The inputs of a `Part` -> the loss [], a mean over the part's rows, and the terms [] it is made of,
    #: by name, for the log; at every step the same names.
    forward: Callable[..., tuple[Tensor, dict[str, Tensor]]]

    def before_step(self, key: int) -> None:
        """key, below 2^31, is a function of the seed and the step alone: for noise that shall not depend
        on the process."""

    def norms(self) -> dict[str, Tensor]:
        """Norms [] of gradients at what the part's rows became, by name, always the same names, for the log.

        Too dear for every step, they are asked for at every `log_every`-th, between a part's
        `forward` and its backward pass, whose graph must be left as it is. Rows share nothing there, so the
        squares of parts add up.
        """
        return {}

    def after_step(self) -> None:
        """After the optimiser's step; a teacher that follows the model moves here."""


class Part(NamedTuple):
    """A process's part of a global batch: what the objective is called with, the id of each row (dropout
    belongs to it), and the share of the batch's rows that these are."""

    inputs: tuple[Any, ...]
    ids: Sequence[str]
    share: float


class Plan(Protocol):
    """Which batches, in which order. A step is a pure function of its number: nothing to save."""

    epoch_steps: int
    steps: int  # in all

    def parts(self, step: int, process: int, device: torch.device) -> Iterator[Part]:
        """The parts of a step's batch that are this process's, `accumulate` of them, on the device."""


@dataclass(frozen=True)
class Validation:
    """measure  the averaged weights' metrics by name, the same on every process
    monitor  the metric that chooses the weights; None: the last ones are taken
    higher   whether more of it is better
    of       what is measured on, for the log ("41 patients, 3 of 3 classes")
    tie      the metric of which less is better, that chooses among weights with equal monitors"""

    measure: Callable[[], dict[str, float]]
    monitor: str | None
    higher: bool
    of: str
    tie: str | None = None

    def better(self, new: dict[str, float], old: dict[str, float]) -> bool:
        """Whether weights with these metrics are to be taken; old is empty before the first."""
        if self.monitor is None:
            return False
        if not old:
            return True
        a, b = new[self.monitor], old[self.monitor]
        if a == b and self.tie is not None:
            return new[self.tie] < old[self.tie]
        return a > b if self.higher else a < b
