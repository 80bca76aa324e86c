"""What a diagnosis may claim: prediction sets with a coverage guarantee, and when to abstain.

Both are calibrated on patients whom training has not seen, for each missing pattern (which
modalities are present), because a model is surer with everything than with an X-ray alone.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from robustmdiff.data.files import write_whole

ENOUGH = 100  # calibration patients for a pattern to stand on its own


def _pattern(present: list[bool]) -> str:
    return "".join("1" if p else "0" for p in present)


def _conformal_quantile(score: Tensor, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores; infinite where n is too small for it."""
    k = math.ceil((len(score) + 1) * level)
    return float(score.double().sort().values[k - 1]) if k <= len(score) else math.inf


def _by_pattern(score: Tensor, patterns: list[str], level: float) -> dict[str, tuple[float, int]]:
    """Group name to (quantile, number of patients): each pattern with ENOUGH patients ("101"), the
    others together by how many modalities they have ("2 present"), and everyone ("all")."""
    groups: dict[str, list[int]] = {}
    for i, pattern in enumerate(patterns):
        groups.setdefault(pattern, []).append(i)
    alone = {pattern: rows for pattern, rows in groups.items() if len(rows) >= ENOUGH}
    merged: dict[str, list[int]] = {}
    for pattern, rows in groups.items():
        if pattern not in alone:
            merged.setdefault(f"{pattern.count('1')} present", []).extend(rows)
    kept = alone | {name: rows for name, rows in merged.items() if len(rows) >= ENOUGH}
    kept["all"] = list(range(len(patterns)))
    return {name: (_conformal_quantile(score[rows], level), len(rows)) for name, rows in kept.items()}


def _group(pattern: str, groups: dict[str, Any]) -> str:
    """Where a pattern's quantile comes from: its own, that of its size, or that of all."""
    return next(g for g in (pattern, f"{pattern.count('1')} present", "all") if g in groups)


class _Saved(ABC):
    """Kept as one JSON file, written whole or not at all."""

    @abstractmethod
    def state(self) -> dict[str, Any]: ...

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any]) -> Self: ...

    def save(self, path: str | Path) -> None:
        write_whole(Path(path), json.dumps(self.state()).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        try:
            return cls.from_state(json.loads(Path(path).read_text(encoding="utf-8")))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a saved {cls.__name__} ({error!r})") from error


class ConformalSets(_Saved):
    """Split-conformal prediction sets per missing pattern (Mondrian: Vovk et al. 2005, ch. 4.5;
    score 1 - p_y: Sadinle et al. 2019).

    One label: the set holds every class with 1 - p_c at most the quantile of its pattern, and
    always the most probable class. If calibration and new patients are exchangeable, the true
    class is in the set with probability at least 1 - alpha, for each group of patterns that has
    its own quantile; averaged over classes, so a rare class may be covered less (evaluation
    reports it).

    Multilabel: a class is in the set unless it can be ruled out; each class has quantiles of its
    own from the patients who have it. Under the same condition a patient who has class c finds it
    in the set with probability at least 1 - alpha.

    A pattern with under 100 calibration patients (multilabel: who have the class) is merged with
    the other such patterns of as many modalities; if these too are under 100 together, or a
    pattern was never seen, everyone counts, and the guarantee is then an average over everyone.
    `group(presence)` says which it is. The guarantee says nothing about patients from elsewhere.
    """

    def __init__(self, alpha: float, multilabel: bool, quantiles: list[dict[str, tuple[float, int]]]) -> None:
        self.alpha = alpha
        self.multilabel = multilabel
        self.quantiles = quantiles  # one entry, or one per class if multilabel

    @classmethod
    def fit(
        cls,
        probability: Tensor,
        label: Tensor,
        presence: Tensor,
        alpha: float = 0.1,
        *,
        known: Tensor | None = None,
        multilabel: bool = False,
    ) -> Self:
        """probability [n, C] and presence bool [n, M] of the calibration patients; label [n, C] 0 or
        1, counting only where known bool [n, C] (None: everywhere)."""
        if not 0 < alpha < 1:
            raise ValueError(f"ConformalSets: alpha is {alpha}, expected a number between 0 and 1")
        if probability.shape != label.shape or len(presence) != len(label):
            raise ValueError(
                f"ConformalSets: probability is {list(probability.shape)}, label {list(label.shape)}, "
                f"presence {list(presence.shape)}, expected [n, C], [n, C] and [n, M]"
            )
        holds = label.bool() if known is None else label.bool() & known
        score = 1 - probability.double()
        patterns = [_pattern(row) for row in presence.tolist()]
        if multilabel:
            having = [holds[:, c].nonzero()[:, 0] for c in range(label.shape[1])]
            scores = [score[rows, c] for c, rows in enumerate(having)]
        else:
            having = [(holds.sum(1) == 1).nonzero()[:, 0]]
            scores = [score[having[0]][holds[having[0]]]]
        quantiles = [
            _by_pattern(s, [patterns[i] for i in rows.tolist()], 1 - alpha)
            for s, rows in zip(scores, having, strict=True)
        ]
        return cls(alpha, multilabel, quantiles)

    def sets(self, probability: Tensor, presence: Tensor) -> Tensor:
        """probability [B, C], presence bool [B, M] -> bool [B, C]."""
        quantile = torch.tensor(
            [[g[_group(_pattern(row), g)][0] for g in self.quantiles] for row in presence.tolist()],
            dtype=torch.float64,
            device=probability.device,
        ).reshape(len(presence), -1)  # [B, 1] or [B, C]
        sets = 1 - probability.double() <= quantile
        if not self.multilabel:
            sets = sets.scatter(1, probability.argmax(1, keepdim=True), True)
        return sets

    def group(self, presence: Tensor, c: int = 0) -> tuple[str, int]:
        """Which calibration patients answer for one patient's pattern, presence bool [M], and how
        many they are; of class c if multilabel."""
        groups = self.quantiles[c if self.multilabel else 0]
        name = _group(_pattern(presence.tolist()), groups)
        return name, groups[name][1]

    def state(self) -> dict[str, Any]:
        # JSON has no infinity; a score is at most 1, so 2 says the same
        finite = [{g: (min(q, 2.0), n) for g, (q, n) in groups.items()} for groups in self.quantiles]
        return {"alpha": self.alpha, "multilabel": self.multilabel, "quantiles": finite}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        quantiles = [{g: (float(q), int(n)) for g, (q, n) in groups.items()} for groups in state["quantiles"]]
        return cls(state["alpha"], state["multilabel"], quantiles)


class Abstention(_Saved):
    """Flags patients unlike the training data: Mahalanobis distance of the fused latent (Lee et al.
    2018) from the training patients with as many modalities, beyond a calibration quantile.

    Means are kept per number of modalities present, the covariance is pooled within them and
    shrunk by a tenth towards a multiple of the identity. If calibration and new patients are
    exchangeable, at most 1 - quantile of ordinary patients are flagged. A patient of whom nothing
    is present is always flagged: there is nothing to compare.
    """

    def __init__(self, mean: Tensor, whiten: Tensor, threshold: list[float]) -> None:
        self.mean = mean  # [M + 1, d] float64, by number of modalities present
        self.whiten = whiten  # [d, d] float64, W with W W^T the inverse covariance
        self.threshold = threshold  # [M + 1]

    @classmethod
    def fit(
        cls,
        latent: Tensor,
        presence: Tensor,
        calibration_latent: Tensor,
        calibration_presence: Tensor,
        quantile: float = 0.99,
    ) -> Self:
        """latent [n, d] and presence bool [n, M] of training patients, and of calibration patients."""
        if not 0 < quantile < 1:
            raise ValueError(f"Abstention: quantile is {quantile}, expected a number between 0 and 1")
        if len(latent) < 2 or not torch.isfinite(latent).all():
            raise ValueError(f"Abstention: latent is {list(latent.shape)}, expected two or more finite rows")
        x, size = latent.double().cpu(), presence.sum(1).cpu()
        sizes = range(presence.shape[1] + 1)
        mean = torch.stack([x[size == k].mean(0) if (size == k).any() else x.mean(0) for k in sizes])
        centred = x - mean[size]
        covariance = centred.T @ centred / len(x)
        spread = covariance.diagonal().mean().clamp(min=1e-12)
        covariance = 0.9 * covariance + 0.1 * spread * torch.eye(x.shape[1], dtype=torch.float64)
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        fitted = cls(mean, whiten, [])
        distance = fitted.distance(calibration_latent, calibration_presence)
        seen = calibration_presence.sum(1).cpu()
        groups = [distance[seen == k] for k in sizes]
        fitted.threshold = [
            _conformal_quantile(g if len(g) >= ENOUGH else distance[seen > 0], quantile) for g in groups
        ]
        return fitted

    def distance(self, latent: Tensor, presence: Tensor) -> Tensor:
        """latent [B, d], presence bool [B, M] -> float64 [B]."""
        centred = latent.double().cpu() - self.mean[presence.sum(1).cpu()]
        return (centred @ self.whiten).norm(dim=1)

    def flag(self, latent: Tensor, presence: Tensor) -> Tensor:
        """latent [B, d], presence bool [B, M] -> bool [B], True = unlike the training data."""
        size = presence.sum(1).cpu()
        limit = torch.tensor(self.threshold, dtype=torch.float64)[size]
        return (self.distance(latent, presence) > limit) | (size == 0)

    def state(self) -> dict[str, Any]:
        threshold = [t if math.isfinite(t) else None for t in self.threshold]
        return {"mean": self.mean.tolist(), "whiten": self.whiten.tolist(), "threshold": threshold}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        mean, whiten = (torch.tensor(state[name], dtype=torch.float64) for name in ("mean", "whiten"))
        return cls(mean, whiten, [math.inf if t is None else t for t in state["threshold"]])
