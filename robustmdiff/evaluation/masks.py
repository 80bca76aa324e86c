"""What is taken away from which test patient: drawn once, stored, the same for every method."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from robustmdiff.ranking import Bools
from robustmdiff.whole import write_whole

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COMPLETE = "mcar/0.0"  # everything that was observed


def mcar(rate: float, at_least_one: bool = False) -> str:
    """Name of a sweep's condition; with nothing taken away both sweeps are the same one."""
    return f"{'kept1' if at_least_one and rate > 0 else 'mcar'}/{rate:.1f}"


def subset(names: Sequence[str]) -> str:
    """Name of the condition in which only these modalities are left."""
    return f"subset/{'+'.join(names)}"


@dataclass(frozen=True)
class Masks:
    """keep: condition name to bool [n, M], False where a modality is taken away; rows in the order
    of `ids`, columns in that of `modalities`."""

    ids: tuple[str, ...]
    modalities: tuple[str, ...]
    rates: tuple[float, ...]
    keep: dict[str, Bools]

    @property
    def subsets(self) -> list[str]:
        return [name for name in self.keep if name.startswith("subset/")]

    def of(self, ids: Sequence[str]) -> Masks:
        """The masks of these patients only, in their order."""
        row = {id: i for i, id in enumerate(self.ids)}
        rows = [row[id] for id in ids]
        keep = {name: keep[rows] for name, keep in self.keep.items()}
        return Masks(tuple(ids), self.modalities, self.rates, keep)

    def save(self, path: str | Path) -> None:
        """One npz file, written whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            ids=np.array(self.ids),
            modalities=np.array(self.modalities),
            rates=np.array(self.rates),
            names=np.array(list(self.keep)),
            keep=np.packbits(np.stack(list(self.keep.values())), axis=-1),
        )
        write_whole(Path(path), content.getvalue())

    @staticmethod
    def load(path: str | Path) -> Masks:
        with np.load(path) as stored:
            modalities = tuple(stored["modalities"].tolist())
            keep = np.unpackbits(stored["keep"], axis=-1, count=len(modalities)).astype(bool)
            return Masks(
                tuple(stored["ids"].tolist()),
                modalities,
                tuple(stored["rates"].tolist()),
                dict(zip(stored["names"].tolist(), keep, strict=True)),
            )


def draw_masks(
    ids: Sequence[str],
    presence: Bools,
    modalities: Sequence[str],
    *,
    rates: Sequence[float] = RATES,
    seed: int = 0,
) -> Masks:
    """Masks of the whole protocol for n patients, presence bool [n, M].

    mcar/p    every modality is taken away with probability p, independently.
    kept1/p   the same, but a patient left with nothing keeps one of those present, at random.
    subset/S  only the modalities of S are left; every non-empty S (with more than 6 modalities:
              the single ones, all but one, and all).

    One uniform number per patient and modality serves all rates: what is gone at .3 is gone at .5.
    """
    n, M = presence.shape
    if (n, M) != (len(ids), len(modalities)):
        raise ValueError(
            f"draw_masks: presence is {[n, M]}, expected {[len(ids), len(modalities)]} (ids, modalities)"
        )
    bad = [rate for rate in rates if not 0 <= rate < 1 or round(rate, 1) != rate]
    if bad or 0 not in rates or list(rates) != sorted(set(rates)):
        raise ValueError(f"draw_masks: rates are {tuple(rates)}, expected tenths in [0, 1), ascending from 0")
    u = np.random.Generator(np.random.Philox(seed)).random((n, M))
    last = np.zeros((n, M), dtype=bool)  # the modality present that a patient loses last
    last[np.arange(n), np.where(presence, u, -1).argmax(1)] = True
    keep = {mcar(rate): u >= rate for rate in rates}
    for rate in rates:
        if rate > 0:
            nothing = ~(presence & keep[mcar(rate)]).any(1, keepdims=True)
            keep[mcar(rate, at_least_one=True)] = keep[mcar(rate)] | (nothing & last)
    for chosen in _subsets(M):
        only = np.zeros((n, M), dtype=bool)
        only[:, chosen] = True
        keep[subset([modalities[i] for i in chosen])] = only
    return Masks(tuple(ids), tuple(modalities), tuple(rates), keep)


def _subsets(M: int) -> list[list[int]]:
    sizes = range(1, M + 1) if M <= 6 else sorted({1, M - 1, M})
    return [list(chosen) for size in sizes for chosen in combinations(range(M), size)]
