"""The forecast by class: a class is drawn, and a training patient of that class lends what is not seen."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmdiff.forecast.contract import EVIDENCE_UNIT, Forecast, Pairs, Seen, total_evidence
from robustmdiff.forecast.fitting import drawing_by
from robustmdiff.forecast.ridge import PENALTIES, solve
from robustmdiff.forecast.told import DONORS, draw_classes, stratified
from robustmdiff.labels import Labels


class DonorForecast(Forecast):
    """The class c ~ p(c | x_m), then the evidence of a random training patient of class c for what is added,
    beside the patient's own for what is seen; the head's part of the latent by ridge regression from both.
    With labels that do not exclude each other the donor is one of those nearest to the labels drawn.

    tau  [M + 1]: what evidence is multiplied by where k modalities are visible.
    """

    tau: Tensor

    def __init__(self, tau: Tensor, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.register_buffer("tau", tau.detach().clone())
        self.donors: Pairs | None = None  # one row of each patient: everything that was observed
        self.head: Tensor | None = None

    def fit(self, pairs: Pairs, key: Tensor) -> None:
        """Nothing here is random: the key is not used."""
        known = pairs.take(pairs.known.all(1)) if pairs.known.all(1).any() else pairs
        size = known.view.sum(1)
        order = (-size).argsort(stable=True)
        first = order[first_of(known.patient[order])]
        self.donors = known.take(first)
        x = self._tell(pairs.seen, pairs.view, total_evidence(pairs.evidence)).double()
        F = pairs.evidence.shape[-1]
        self.head = solve(x, (pairs.y - pairs.seen.y)[:, F:].double(), PENALTIES[1]).float()

    def sample(self, seen: Seen, view: Tensor, draws: int, key: Tensor) -> Tensor:
        holds = draw_classes(self.labels, seen.p, draws, key)  # [n, S, C]
        u = stratified(draws, key, DONORS).to(seen.y.dtype)  # [S], the same for every patient
        return self._lend(seen, view, holds, u.expand(len(holds), -1))[0]

    def lend(self, pairs: Pairs, key: Tensor) -> Pairs:
        """The same rows, as they would be had a random patient of the same class lent what is added."""
        holds = torch.where(pairs.known, pairs.label, pairs.seen.p)[:, None]
        with drawing_by(key):
            u = torch.rand(len(holds), 1, device=holds.device)
        y, evidence = self._lend(pairs.seen, pairs.view, holds, u)
        return pairs._replace(y=y[:, 0], evidence=evidence[:, 0])

    def _lend(self, seen: Seen, view: Tensor, holds: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Classes [n, S, C] and the u-th donor [n, S] of each -> y [n, S, D], evidence [n, S, M, F]."""
        assert self.donors is not None, "fit comes first"
        assert self.head is not None
        added = view & ~seen.m
        lent = torch.empty(*holds.shape[:2], *seen.evidence.shape[1:], device=view.device)
        for question in added.unique(dim=0):
            mine = (added == question).all(1)
            has = self.donors.view.masked_fill(~question, True).all(1)
            donors = self.donors.take(has) if has.any() else self.donors
            evidence = self._alone(donors.evidence, donors.view)
            lent[mine] = evidence[self._choose(donors.label, holds[mine], u[mine])]
        evidence = self._alone(seen.evidence, seen.m)[:, None] + lent * added[:, None, :, None]
        evidence = evidence * self.tau[view.sum(1)][:, None, None, None]
        total = total_evidence(evidence)  # [n, S, F]
        h = self._tell(seen, view, total) @ self.head
        F = total.shape[-1]
        return torch.cat([total / EVIDENCE_UNIT, seen.y[:, None, F:] + h], dim=-1), evidence

    def _alone(self, evidence: Tensor, m: Tensor) -> Tensor:
        """Evidence [n, M, F] as each modality gives it, whoever else is visible."""
        return evidence / self.tau[m.sum(1)][:, None, None]

    @staticmethod
    def _choose(label: Tensor, holds: Tensor, u: Tensor) -> Tensor:
        """A donor for each draw, int64 [n, S]: the u-th [n, S] of those whose labels [k, C] are nearest to
        `holds` [n, S, C]."""
        far = torch.cdist(holds, label.to(holds.dtype)[None].expand(len(holds), -1, -1), p=1)  # [n, S, k]
        nearest = far <= far.amin(-1, keepdim=True) + 0.5
        rank = (nearest.sum(-1) * u).floor()  # [n, S]
        return (nearest.cumsum(-1) > rank[..., None]).to(torch.uint8).argmax(-1)

    @staticmethod
    def _tell(seen: Seen, view: Tensor, total: Tensor) -> Tensor:
        """What the head's part is told of: [n, f], or [n, S, f] for evidence [n, S, F]."""
        told = torch.cat([seen.y, seen.m.to(seen.y.dtype), view.to(seen.y.dtype)], dim=-1)
        if total.dim() == 3:
            told = told[:, None].expand(*total.shape[:2], -1)
        return torch.cat([told, total / EVIDENCE_UNIT, torch.ones_like(told[..., :1])], dim=-1)


def first_of(patient: Tensor) -> Tensor:
    """The first row of each patient, int64 [patients]."""
    who, inverse = patient.unique(return_inverse=True)
    row = torch.arange(len(patient), device=patient.device)
    return torch.full_like(who, len(row)).scatter_reduce(0, inverse, row, "amin")
