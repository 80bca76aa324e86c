"""More weight for rare classes: (f_max / f_c)^gamma."""

from __future__ import annotations

import torch
from torch import Tensor


def class_frequency(label: Tensor, label_known: Tensor) -> Tensor:
    """float64 [C]: how often class c holds among the patients for whom it is known (0 where
    nobody is). label and label_known [n, C] as in `Batch`."""
    known = label_known.bool()
    positive = (label > 0.5) & known
    return positive.sum(dim=0).double() / known.sum(dim=0).clamp(min=1)


def rare_weights(label: Tensor, label_known: Tensor, gamma: float) -> Tensor:
    """float32 [n], mean 1: each patient weighs w_c = (f_max / f_c)^gamma for the class c they have.

    With several positive classes the largest counts, that is the rarest class (a sum would let a
    patient with three common diseases outweigh one with a rare one). No known positive class
    counts as the most frequent one.
    """
    if not gamma >= 0:
        raise ValueError(f"rare_weights: gamma is {gamma}, expected a number of at least 0")
    f = class_frequency(label, label_known)
    factor = torch.where(f > 0, (f.max() / f).nan_to_num(posinf=1.0), 1.0) ** gamma  # [C]
    positive = (label > 0.5) & label_known.bool()
    weight = torch.where(positive, factor, 1.0).amax(dim=1)
    return (weight / weight.mean()).float()
