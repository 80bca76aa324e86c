"""What each step sees: which patients, how much of them, and with what weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Task
from robustmdiff.refusal import Refusal
from robustmdiff.training.batches import PackedPatients, epoch_batches, steps_per_epoch
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.masking import MaskingCurriculum
from robustmdiff.training.rare import rare_weights, warn_unseen

MASKS, NOISE, VALIDATION = 2, 3, 4  # streams of random numbers


class Part(NamedTuple):
    """A process's part of a global batch: `share` of its patients."""

    batch: Batch
    kept: Tensor  # [b, M] bool
    weight: Tensor  # [b] float32, mean 1 over the training patients
    share: float


class Plan:
    """Steps 0 to `steps` - 1, each a pure function of its number: nothing to save, nothing to restore.

    The masks are drawn for the global batch and then shared out, in `accumulate` parts for each of
    the processes, so that how it is shared changes neither patients nor masks.
    """

    def __init__(self, patients: PackedPatients, task: Task, config: TrainConfig, processes: int) -> None:
        self.patients, self.config, self.processes = patients, config, processes
        warn_unseen(task.classes, patients.label, patients.label_known)
        rare = rare_weights(patients.label, patients.label_known, config.gamma)
        self.sampling = rare if config.rare == "sample" else None
        self.weight = torch.ones_like(rare) if config.rare == "sample" else rare
        self.curriculum = MaskingCurriculum(
            task,
            p_min=config.p_min,
            p_max=config.p_max,
            r=config.r,
            p_structured=config.p_structured,
            p_nothing=config.p_nothing,
            spread=config.p_spread,
            scale=config.p_scale,
        )
        n = len(patients)
        self.epoch_steps = steps_per_epoch(n, config.batch_size)
        self.steps = config.epochs * self.epoch_steps
        if n // self.epoch_steps < processes * config.accumulate:
            raise Refusal(
                f"train: a batch has {n // self.epoch_steps} patients, expected at least one for each of "
                f"{processes} processes x accumulate = {config.accumulate}"
            )
        self._epoch, self._batches = -1, [np.empty(0, np.int64)]

    def parts(self, step: int, process: int) -> Iterator[Part]:
        """The `accumulate` parts of a step's batch that are this process's."""
        index = self._batch(step)
        generator = torch.Generator().manual_seed(random_key(self.config.seed, MASKS, step))
        presence = self.patients.presence[torch.from_numpy(index)]
        kept = self.curriculum.draw(presence, step / self.steps, generator)
        places = np.array_split(np.arange(len(index)), self.config.accumulate * self.processes)
        for place in places[process :: self.processes]:
            mine = index[place]
            weight = self.weight[torch.from_numpy(mine)]
            yield Part(
                self.patients.take(mine), kept[torch.from_numpy(place)], weight, len(mine) / len(index)
            )

    def _batch(self, step: int) -> np.ndarray:
        epoch, at = divmod(step, self.epoch_steps)
        if epoch != self._epoch:
            n, seed = len(self.patients), self.config.seed
            self._epoch = epoch
            self._batches = epoch_batches(n, self.epoch_steps, epoch, seed, self.sampling)
        return self._batches[at]


def random_key(*numbers: int) -> int:
    """A number of 31 bits that is as good as random for each tuple of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
