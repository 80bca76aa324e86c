"""Which concepts a prior leaves out."""

from __future__ import annotations

import torch
from torch import Tensor


def absent_concepts(log_prior: Tensor | None) -> Tensor | None:
    """bool [k], or None where no concept is absent. On a GPU the values are not looked at."""
    if log_prior is None:
        return None
    if log_prior.device.type != "cpu":
        return log_prior == -torch.inf
    wrong = ~(log_prior < torch.inf)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"knowledge_attention: log_prior[{i}] is {float(log_prior[i])}, expected a finite number, "
            "or -inf for an absent concept"
        )
    absent = log_prior == -torch.inf
    return absent if absent.any() else None
