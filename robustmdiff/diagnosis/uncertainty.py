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

from robustmdiff.probability import ROUNDING, check_probability
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

ENOUGH = 100  # calibration patients for a pattern to stand on its own


def _pattern(present: list[bool]) -> str:
    return "".join("1" if p else "0" for p in present)


def _check_presence(what: str, presence: Tensor) -> None:
    if presence.dtype != torch.bool or presence.ndim != 2:
        raise ValueError(
            f"{what}: presence is {presence.dtype} {list(presence.shape)}, expected torch.bool [n, M]"
        )


def _check_labels(label: Tensor, known: Tensor, multilabel: bool) -> None:
    wrong = known & (label != 0) & (label != 1)
    if wrong.any():
        row, c = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"ConformalSets: label[{row}, {c}] is {float(label[row, c])}, expected 0 or 1, or not known"
        )
    holds = (label == 1) & known
    if not multilabel:
        wrong = (holds.sum(1) > 1) | (known.all(1) & (holds.sum(1) == 0))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"ConformalSets: label[{row}] names {int(holds[row].sum())} classes, expected one "
                "(or multilabel=True)"
            )
    if not holds.any():
        raise Refusal(
            f"ConformalSets: no class is known to hold for any of {len(label)} calibration patients, "
            "expected at least one such patient"
        )


def _check_latent(name: str, latent: Tensor) -> None:
    wrong = ~latent.isfinite()
    if wrong.any():
        row, j = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"Abstention: {name}[{row}, {j}] is {float(latent[row, j])}, expected a finite number"
        )


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
        """Raises ValueError for a file that `save` did not write, or that was damaged since."""
        try:
            return cls.from_state(json.loads(Path(path).read_text(encoding="utf-8")))
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise Refusal(f"{path}: not a saved {cls.__name__} ({error!r})") from error


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
        1, counting only where known bool [n, C] (None: everywhere).

        Raises ValueError for a probability that is NaN, infinite or outside [0, 1], for a known label
        that is not 0 or 1, for a patient who has not one class (one label), and where no label is known.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"ConformalSets: alpha is {alpha}, expected a number between 0 and 1")
        known = torch.ones_like(label, dtype=torch.bool) if known is None else known
        if probability.shape != label.shape or known.shape != label.shape or len(presence) != len(label):
            raise ValueError(
                f"ConformalSets: probability is {list(probability.shape)}, label {list(label.shape)}, known "
                f"{list(known.shape)}, presence {list(presence.shape)}, expected [n, C] thrice and [n, M]"
            )
        _check_presence("ConformalSets", presence)
        check_probability("ConformalSets", probability)
        _check_labels(label, known, multilabel)
        holds = (label == 1) & known
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
        """probability [B, C], presence bool [B, M] -> bool [B, C]. ValueError for what is no probability."""
        check_probability("ConformalSets", probability)
        _check_presence("ConformalSets", presence)
        if self.multilabel and probability.shape[1] != len(self.quantiles):
            raise ValueError(
                f"ConformalSets: probability is {list(probability.shape)}, expected {len(self.quantiles)} "
                "classes, those of the calibration patients"
            )
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
        alpha, multilabel = state["alpha"], state["multilabel"]
        quantiles = [{g: (float(q), int(n)) for g, (q, n) in groups.items()} for groups in state["quantiles"]]
        if not 0 < alpha < 1 or not isinstance(multilabel, bool):
            raise ValueError(f"alpha is {alpha} and multilabel {multilabel}")
        if not quantiles or (len(quantiles) > 1 and not multilabel):
            raise ValueError(f"there are {len(quantiles)} groups of quantiles")
        for groups in quantiles:
            for name, (quantile, n) in groups.items():
                if not -ROUNDING <= quantile <= 2 or n < 0:
                    raise ValueError(f"the quantile of {name!r} is {quantile}, of {n} patients")
            if "all" not in groups:
                raise ValueError("the quantile of all patients is not there")
        return cls(alpha, multilabel, quantiles)


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
        for who, x, present, least in (
            ("latent", latent, presence, 2),
            ("calibration_latent", calibration_latent, calibration_presence, 1),
        ):
            if x.ndim != 2 or len(x) < least or len(present) != len(x):
                raise ValueError(
                    f"Abstention: {who} is {list(x.shape)} and its presence {list(present.shape)}, expected "
                    f"[n, d] and [n, M], n at least {least}"
                )
            _check_latent(who, x)
            _check_presence("Abstention", present)
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
        """latent [B, d], presence bool [B, M] -> float64 [B]. ValueError for a latent that is not finite."""
        _check_latent("latent", latent)
        _check_presence("Abstention", presence)
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
        threshold = [math.inf if t is None else float(t) for t in state["threshold"]]
        sizes, d = mean.shape
        if whiten.shape != (d, d) or len(threshold) != sizes:
            raise ValueError(
                f"mean is {list(mean.shape)}, whiten {list(whiten.shape)}, and there are {len(threshold)} "
                "thresholds"
            )
        if not (mean.isfinite().all() and whiten.isfinite().all() and all(t >= 0 for t in threshold)):
            raise ValueError("a number of it is NaN, infinite or negative")
        return cls(mean, whiten, threshold)
