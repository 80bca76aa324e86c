"""What the training loop asks of a diagnosis model."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.losses import TERMS, Losses, pulls, total_loss
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.contract import Objective


class DiagnosisObjective(Objective):
    """What training minimises: L_total of a `DiagnosisModel`."""

    model: DiagnosisModel

    def __init__(self, model: DiagnosisModel, config: TrainConfig) -> None:
        super().__init__(model)
        self.config = config
        self._latest: tuple[Losses, Encoded] | None = None

    def forward(self, batch: Batch, kept: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        encoded = self.model.look(batch, kept)
        losses = self.model.losses(encoded, batch, kept, weight)
        self._latest = losses, encoded
        total = torch.as_tensor(total_loss(losses, self.config))
        parts = zip(TERMS, losses, strict=True)
        return total, {name: torch.as_tensor(x, device=total.device).detach() for name, x in parts}

    def norms(self) -> dict[str, Tensor]:
        """How hard each term pulls at the encoders."""
        assert self._latest is not None
        return {f"gradient/{name}": norm for name, norm in pulls(*self._latest).items()}

    def before_step(self, key: int) -> None:
        self.model.before_step(key)

    def after_step(self) -> None:
        self._latest = None  # a graph that nobody needs any more
        self.model.after_step()
