"""What is taken away from which test patient: drawn once, stored, the same for every method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustmdiff.diagnosis.subsets import subsets
from robustmdiff.evaluation.conditions import MCAR, Condition, Subset, condition_of, mcar
from robustmdiff.ranking import Bools
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Masks:
    """keep: condition to bool [n, M], False where a modality is taken away; rows in the order of `ids`,
    columns in that of `modalities`."""

    ids: tuple[str, ...]
    modalities: tuple[str, ...]
    rates: tuple[float, ...]
    keep: dict[Condition, Bools]

    @property
    def subsets(self) -> list[Subset]:
        return [condition for condition in self.keep if isinstance(condition, Subset)]

    def of(self, ids: Sequence[str]) -> Masks:
        """The masks of these patients only, in their order."""
        row = {id: i for i, id in enumerate(self.ids)}
        rows = [row[id] for id in ids]
        keep = {condition: keep[rows] for condition, keep in self.keep.items()}
        return Masks(tuple(ids), self.modalities, self.rates, keep)

    def save(self, path: str | Path) -> None:
        """One npz file, written whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            ids=np.array(self.ids),
            modalities=np.array(self.modalities),
            rates=np.array(self.rates),
            names=np.array([condition.key for condition in self.keep]),
            keep=np.packbits(np.stack(list(self.keep.values())), axis=-1),
        )
        write_whole(Path(path), content.getvalue())

    @staticmethod
    def load(path: str | Path) -> Masks:
        """Raises Refusal for masks whose conditions are not those of their modalities, as an earlier
        version wrote them where a modality had a "+" in its name."""
        with np.load(path) as stored:
            modalities = tuple(stored["modalities"].tolist())
            keep = np.unpackbits(stored["keep"], axis=-1, count=len(modalities)).astype(bool)
            conditions = [condition_of(key) for key in stored["names"].tolist()]
            for condition in conditions:
                if isinstance(condition, Subset) and not set(condition.names) <= set(modalities):
                    raise Refusal(
                        f"{path}: condition is {condition.key!r}, expected some of {', '.join(modalities)}; "
                        "an earlier version wrote it: run `robustmdiff evaluate` again"
                    )
            return Masks(
                tuple(stored["ids"].tolist()),
                modalities,
                tuple(stored["rates"].tolist()),
                dict(zip(conditions, keep, strict=True)),
            )


def draw_masks(
    ids: Sequence[str],
    presence: Bools,
    modalities: Sequence[str],
    *,
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> Masks:
    """Masks of the whole protocol for n patients, presence bool [n, M]: Complete; MCAR at each rate, in
    both sweeps; and each Subset but the empty one (with more than 6 modalities: the single ones, all but
    one, and all), the small ones first.

    One uniform number per patient and modality serves all rates: what is gone at .3 is gone at .5.
    """
    n, M = presence.shape
    if (n, M) != (len(ids), len(modalities)):
        raise ValueError(
            f"draw_masks: presence is {[n, M]}, expected {[len(ids), len(modalities)]} (ids, modalities)"
        )
    if not all(0 <= rate < 1 for rate in rates) or 0 not in rates or list(rates) != sorted(set(rates)):
        raise ValueError(f"draw_masks: rates are {tuple(rates)}, expected numbers below 1, ascending from 0")
    u = np.random.Generator(np.random.Philox(seed)).random((n, M))
    last = np.zeros((n, M), dtype=bool)  # the modality present that a patient loses last
    last[np.arange(n), np.where(presence, u, -1).argmax(1)] = True
    keep: dict[Condition, Bools] = {mcar(rate): u >= rate for rate in rates}
    for rate in rates[1:]:
        nothing = ~(presence & keep[MCAR(rate)]).any(1, keepdims=True)
        keep[MCAR(rate, at_least_one=True)] = keep[MCAR(rate)] | (nothing & last)
    chosen = [tuple(np.flatnonzero(members).tolist()) for members in subsets(M)]
    for some in sorted(filter(None, chosen), key=lambda some: (len(some), some)):
        only = np.zeros((n, M), dtype=bool)
        only[:, some] = True
        keep[Subset(tuple(modalities[i] for i in some))] = only
    return Masks(tuple(ids), tuple(modalities), tuple(rates), keep)
