"""L = lambda_diff L_diff + lambda_cons L_cons + lambda_class L_class + ..., in one forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustmdiff.data.batch import Batch
from robustmdiff.training.config import TrainConfig

LAMBDA = "lambda_"
LOSSES = tuple(name.removeprefix(LAMBDA) for name in TrainConfig.model_fields if name.startswith(LAMBDA))


class Objective(nn.Module):
    """One forward, as Accelerate and DDP want it: the weighted sum of the model's losses."""

    def __init__(self, model: Any, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: getattr(config, LAMBDA + name) for name in LOSSES}

    def forward(self, batch: Batch, kept: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """-> the loss, and [len(LOSSES) + 1] float32: each term (0 where the model has none), the sum."""
        losses = self.model.losses(self.model.encode(batch), batch, kept, weight)
        unknown = sorted(set(losses) - set(LOSSES))
        if unknown:
            raise ValueError(
                f"{type(self.model).__name__}.losses gave {unknown[0]!r}, expected some of "
                f"{', '.join(LOSSES)}"
            )
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        zero = total.new_zeros(())
        parts = torch.stack([losses.get(name, zero).detach() for name in LOSSES] + [total.detach()])
        return total, parts.float()
