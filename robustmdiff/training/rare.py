"""More weight for rare classes, w_c = (f_max / f_c)^gamma, and by how much it shifts the logits."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robustmdiff.labels import Labels


class RareWeights(NamedTuple):
    """What rare classes count more by, for n patients of whom a model learns C classes.

    loss        float32 [n, C], of the cells of L_class: w_c where class c holds, else 1; divided by the mean
                over the cells that the loss reads
    draw        float32 [n], how often a patient is drawn; None: all alike
    log_weight  float32 [C]: so much higher than the log odds of the patients are the logits that are learned.
                One label: log w_c, up to a constant that no softmax sees. Many labels: log w_c; of patients
                drawn more often the change of the log odds of the class's frequency
    """

    loss: Tensor
    draw: Tensor | None
    log_weight: Tensor


def rare_weights(
    labels: Labels, label: Tensor, known: Tensor, gamma: float, how: Literal["weight", "sample"] = "weight"
) -> RareWeights:
    """label and known [n, C] as in `Batch`; gamma = 0 treats all classes alike.

    A patient is drawn as often as the rarest of their classes asks for (a sum would let a patient with three
    common diseases outweigh one with a rare one).
    """
    known = known.bool()
    holds = (label > 0.5) & known
    w = class_weights(label, known, gamma)
    cell = torch.where(holds, w, 1.0)  # [n, C]
    if how == "weight":
        counted = labels.counted(label, known)
        mean = cell[counted].mean() if counted.any() else 1.0
        return RareWeights((cell / mean).float(), None, w.log().float())
    draw = cell.amax(1)
    rest = known & ~holds
    odds = _mean(draw, holds).log()
    if not labels.exclusive:
        odds = odds - _mean(draw, rest).log()
    return RareWeights(torch.ones_like(cell).float(), (draw / draw.mean()).float(), odds.float())


def class_weights(label: Tensor, known: Tensor, gamma: float) -> Tensor:
    """w_c = (f_max / f_c)^gamma, float64 [C]; 1 for a class that nobody has."""
    if not gamma >= 0:
        raise ValueError(f"class_weights: gamma is {gamma}, expected a number of at least 0")
    f = class_frequency(label, known)
    return torch.where(f > 0, (f.max() / f).nan_to_num(posinf=1.0), 1.0) ** gamma


def class_frequency(label: Tensor, known: Tensor) -> Tensor:
    """float64 [C]: how often class c holds among the patients for whom it is known (0 where
    nobody is). label and known [n, C] as in `Batch`."""
    known = known.bool()
    positive = (label > 0.5) & known
    return positive.sum(dim=0).double() / known.sum(dim=0).clamp(min=1)


def _mean(draw: Tensor, of: Tensor) -> Tensor:
    """The mean of draw [n] over the patients of each class, of bool [n, C] -> [C]; 1 where there are none."""
    n = of.sum(0)
    return torch.where(n > 0, (draw[:, None] * of).sum(0) / n.clamp(min=1), 1.0)
