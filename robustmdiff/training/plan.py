"""What each step sees of the patients: who, how much of them, and with what weight."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from robustmdiff.data.task import Task
from robustmdiff.encoders.tensors import tensors
from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.budget import Budget
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.contract import Part
from robustmdiff.training.masking import MaskingCurriculum
from robustmdiff.training.order import MASKS, Order, random_key
from robustmdiff.training.rare import rare_weights


class PatientPlan:
    """A `Plan` of masked patients. Its parts' inputs are the `Batch`, what is kept of it, bool [b, M], and
    the weights of the patients' cells in L_class, float32 [b, C].

    The masks are drawn for the global batch and then shared out with it.
    """

    def __init__(
        self, patients: PackedPatients, task: Task, config: TrainConfig, budget: Budget, processes: int
    ) -> None:
        self.patients, self.seed = patients, config.seed
        self.rare = rare_weights(task.labels, patients.label, patients.label_known, config.gamma, config.rare)
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
        self.order = Order(
            len(patients),
            budget,
            config.seed,
            processes=processes,
            accumulate=config.accumulate,
            weight=self.rare.draw,
        )
        self.epoch_steps, self.steps = budget.epoch_steps, budget.steps

    def parts(self, step: int, process: int, device: torch.device) -> Iterator[Part]:
        index = self.order.batch(step)
        generator = torch.Generator().manual_seed(random_key(self.seed, MASKS, step))
        presence = self.patients.presence[torch.from_numpy(index)]
        kept = self.curriculum.draw(presence, step / self.steps, generator)
        for place in self.order.places(step, process):
            mine = index[place]
            batch = self.patients.take(mine)
            m, weight = kept[torch.from_numpy(place)], self.rare.loss[torch.from_numpy(mine)]
            inputs = (tensors(batch, device), m.to(device), weight.to(device))
            yield Part(inputs, batch.ids, len(mine) / len(index))
