"""When to abstain: patients unlike those that a model was trained on. Numpy only."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from robustmdiff.diagnosis.saved import Saved
from robustmdiff.diagnosis.sets import check_presence, conformal_quantile
from robustmdiff.ranking import Array, Bools

ENOUGH = 100  # calibration patients with as many modalities, for a threshold of their own


class Abstention(Saved):
    """Flags patients unlike the training data: Mahalanobis distance of the fused latent (Lee et al.
    2018) from the training patients with as many modalities, beyond a calibration quantile.

    Means are kept per number of modalities present, the covariance is pooled within them and
    shrunk by a tenth towards a multiple of the identity. If calibration and new patients are
    exchangeable, at most 1 - quantile of ordinary patients are flagged. A patient of whom nothing
    is present is always flagged: there is nothing to compare.

    Arrays, or tensors on the CPU, go in; arrays come out.
    """

    def __init__(self, mean: Array, whiten: Array, threshold: list[float]) -> None:
        self.mean = mean  # [M + 1, d] float64, by number of modalities present
        self.whiten = whiten  # [d, d] float64, W with W W^T the inverse covariance
        self.threshold = threshold  # [M + 1]

    @classmethod
    def fit(
        cls,
        latent: ArrayLike,
        presence: ArrayLike,
        calibration_latent: ArrayLike,
        calibration_presence: ArrayLike,
        quantile: float = 0.99,
    ) -> Self:
        """latent [n, d] and presence bool [n, M] of training patients, and of calibration patients."""
        if not 0 < quantile < 1:
            raise ValueError(f"Abstention: quantile is {quantile}, expected a number between 0 and 1")
        x, present = _checked("latent", latent, presence, least=2)
        z, seen = _checked("calibration_latent", calibration_latent, calibration_presence, least=1)
        size = present.sum(1)
        sizes = range(present.shape[1] + 1)
        mean = np.stack([(x[size == k] if (size == k).any() else x).mean(0) for k in sizes])
        centred = x - mean[size]
        covariance = centred.T @ centred / len(x)
        spread = max(float(covariance.diagonal().mean()), 1e-12)
        covariance = 0.9 * covariance + 0.1 * spread * np.eye(x.shape[1])
        fitted = cls(mean, np.linalg.inv(np.linalg.cholesky(covariance)).T, [])
        distance, size = fitted.distance(z, seen), seen.sum(1)
        groups = [distance[size == k] for k in sizes]
        fitted.threshold = [
            conformal_quantile(g if len(g) >= ENOUGH else distance[size > 0], quantile) for g in groups
        ]
        return fitted

    def distance(self, latent: ArrayLike, presence: ArrayLike) -> Array:
        """latent [B, d], presence bool [B, M] -> float64 [B]. ValueError for a latent that is not finite."""
        x, present = _checked("latent", latent, presence, least=0)
        return np.linalg.norm((x - self.mean[present.sum(1)]) @ self.whiten, axis=1)

    def flag(self, latent: ArrayLike, presence: ArrayLike) -> Bools:
        """latent [B, d], presence bool [B, M] -> bool [B], True = unlike the training data."""
        size = np.asarray(presence).sum(1)
        return (self.distance(latent, presence) > np.array(self.threshold)[size]) | (size == 0)

    def state(self) -> dict[str, Any]:
        threshold = [t if math.isfinite(t) else None for t in self.threshold]
        return {"mean": self.mean.tolist(), "whiten": self.whiten.tolist(), "threshold": threshold}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        mean, whiten = (np.array(state[name], dtype=np.float64) for name in ("mean", "whiten"))
        threshold = [math.inf if t is None else float(t) for t in state["threshold"]]
        sizes, d = mean.shape
        if whiten.shape != (d, d) or len(threshold) != sizes:
            raise ValueError(
                f"mean is {list(mean.shape)}, whiten {list(whiten.shape)}, and there are {len(threshold)} "
                "thresholds"
            )
        if not (np.isfinite(mean).all() and np.isfinite(whiten).all() and all(t >= 0 for t in threshold)):
            raise ValueError("a number of it is NaN, infinite or negative")
        return cls(mean, whiten, threshold)


def _checked(name: str, latent: ArrayLike, presence: ArrayLike, *, least: int) -> tuple[Array, Bools]:
    """float64 [n, d] and bool [n, M], n at least `least`; ValueError for anything else."""
    x, present = np.asarray(latent, dtype=np.float64), np.asarray(presence)
    if x.ndim != 2 or len(x) < least or len(present) != len(x):
        raise ValueError(
            f"Abstention: {name} is {list(x.shape)} and its presence {list(present.shape)}, expected "
            f"[n, d] and [n, M], n at least {least}"
        )
    check_presence("Abstention", present)
    wrong = ~np.isfinite(x)
    if wrong.any():
        row, j = np.argwhere(wrong)[0]
        raise ValueError(f"Abstention: {name}[{row}, {j}] is {x[row, j]}, expected a finite number")
    return x, present
