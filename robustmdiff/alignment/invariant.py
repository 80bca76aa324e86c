"""The visual invariant: what two views of an image have in common, each feature saying something of its own.

Barlow Twins (Zbontar et al. 2021). Descriptions of MedM2G name the elements off the diagonal alone; alone
they are no loss of invariance, since they are 0 for two views that have nothing to do with each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.alignment.contrast import at_least_float32

OFF_DIAGONAL = 0.0051  # lambda of Barlow Twins
EPS = 1e-5  # of its batch normalisation


def cross_correlation(x: Tensor, y: Tensor) -> Tensor:
    """C [d, d] of two views' features, float [N, d] with N >= 2: C_ij is that of feature i in x with j in y.

    Standard deviations are biased; a feature that is the same for everybody has correlation 0.
    """
    if x.shape != y.shape or x.ndim != 2 or len(x) < 2:
        raise ValueError(
            f"cross_correlation: x is {list(x.shape)} and y {list(y.shape)}, expected both [N >= 2, d]"
        )
    with torch.autocast(x.device.type, enabled=False):
        x, y = (_standard(at_least_float32(each)) for each in (x, y))
        return x.T @ y / len(x)


def visual_invariant(x: Tensor, y: Tensor, diag_weight: float = 1.0) -> Tensor:
    """L_VI = .0051 sum_{i != j} C_ij^2 + diag_weight sum_i (1 - C_ii)^2, a float [], of `cross_correlation`.

    diag_weight  0 is the literal reading of the description
    """
    C = cross_correlation(x, y)
    diagonal = C.diagonal()
    off = C.square().sum() - diagonal.square().sum()
    return OFF_DIAGONAL * off + diag_weight * (1 - diagonal).square().sum()


def _standard(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    return x / (x.square().mean(0) + EPS).sqrt()
