"""L = lambda_diff L_diff + lambda_cons L_cons + lambda_class L_class + ..., in one forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.training.config import TrainConfig
from robustmdiff.training.contract import Objective

LAMBDA = "lambda_"
LOSSES = tuple(name.removeprefix(LAMBDA) for name in TrainConfig.model_fields if name.startswith(LAMBDA))


class DiagnosisObjective(Objective):
    """The weighted sum of the losses of a `DiagnosisModel`."""

    model: Any

    def __init__(self, model: Any, config: TrainConfig) -> None:
        super().__init__(model)
        self.weights = {name: getattr(config, LAMBDA + name) for name in LOSSES}

    def forward(self, batch: Batch, kept: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A term is 0 where the model has none."""
        losses = self.model.losses(self.model.encode(batch), batch, kept, weight)
        unknown = sorted(set(losses) - set(LOSSES))
        if unknown:
            raise ValueError(
                f"{type(self.model).__name__}.losses gave {unknown[0]!r}, expected some of "
                f"{', '.join(LOSSES)}"
            )
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        zero = total.new_zeros(())
        return total, {name: losses.get(name, zero).detach() for name in LOSSES}

    def before_step(self, key: int) -> None:
        step = dict(self.model.named_buffers(recurse=False)).get("step")
        if step is not None:  # of the model's own noise
            step.fill_(key)

    def after_step(self) -> None:
        self.model.after_step()
