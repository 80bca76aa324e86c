"""What the training loop asks of a diagnosis model."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.losses import TERMS, total_loss
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.contract import Objective


class DiagnosisObjective(Objective):
    """What training minimises: L_total of a `DiagnosisModel`."""

    model: DiagnosisModel

    def __init__(self, model: DiagnosisModel, config: TrainConfig) -> None:
        super().__init__(model)
        self.config = config

    def forward(self, batch: Batch, kept: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.model.losses(self.model.encode(batch), batch, kept, weight)
        total = torch.as_tensor(total_loss(losses, self.config))
        parts = zip(TERMS, losses, strict=True)
        return total, {name: torch.as_tensor(x, device=total.device).detach() for name, x in parts}

    def before_step(self, key: int) -> None:
        self.model.before_step(key)

    def after_step(self) -> None:
        self.model.after_step()
