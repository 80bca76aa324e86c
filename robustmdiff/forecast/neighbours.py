"""The forecast of those most like the patient: what seeing more did to them."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.forecast.contract import Forecast, Pairs, Seen, total_evidence
from robustmdiff.forecast.told import DONORS, stratified

NEIGHBOURS = 25
EVIDENCE = 12.0  # nats that count as much as a probability of 1


class NeighboursForecast(Forecast):
    """y_m plus the change of one of the 25 nearest training patients who were asked the same: under the same
    view, for the same fuller one; of as many modalities each where those are too few. Near in diagnosis and
    in evidence. Keeps the pairs it learned from, so it is for comparison, not for keeping."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: Pairs | None = None

    def fit(self, pairs: Pairs, key: Tensor) -> None:
        """Nothing here is random: the key is not used."""
        self.pairs = pairs

    def sample(self, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        assert self.pairs is not None, "fit comes first"
        pairs = self.pairs
        where, theirs = place(seen), place(pairs.seen)
        change = pairs.y - pairs.seen.y
        y = seen.y[:, None].repeat(1, draws, 1)
        asked = torch.cat([seen.m, view], dim=-1)
        for question in asked.unique(dim=0):
            mine = (asked == question).all(1)
            donors = self._donors(question)
            distance = torch.cdist(where[mine], theirs[donors])
            near = distance.topk(min(NEIGHBOURS, distance.shape[1]), largest=False, sorted=True).indices
            rank = (stratified(draws, key, DONORS) * near.shape[1]).long()  # [S], the same for every patient
            y[mine] += change[donors[near[:, rank]]]
        return y

    def _donors(self, question: Tensor) -> Tensor:
        """The rows, int64 [k], of those asked the same, question bool [2 M]."""
        assert self.pairs is not None
        theirs = torch.cat([self.pairs.seen.m, self.pairs.view], dim=-1)
        same = (theirs == question).all(1)
        if int(same.sum()) < NEIGHBOURS:
            M = self.pairs.view.shape[1]
            sizes = torch.stack([theirs[:, :M].sum(1), theirs[:, M:].sum(1)], dim=-1)
            same = (sizes == torch.stack([question[:M].sum(), question[M:].sum()])).all(1)
        if not same.any():
            same = torch.ones_like(same)
        return same.nonzero()[:, 0]


def place(seen: Seen) -> Tensor:
    """[n, C + F]: where a patient stands."""
    return torch.cat([seen.p, total_evidence(seen.evidence) / EVIDENCE], dim=-1)
