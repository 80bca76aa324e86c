"""What a network of the second stage is told: what is seen, which view is asked for, which class holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.forecast.contract import Seen
from robustmdiff.ops.philox import philox_row_words

FLOOR = -8.0  # nats; a class that is less likely is ruled out
LOG_UNIT = 4.0  # nats
CLASS_UNIT = 2.0
CLASSES, DONORS = 2**30, 2**30 + 1  # the Philox steps of what draws these: no sampler has so many


class Standardise(nn.Module):
    """x -> (x - mean) / sd, by number."""

    mean: Tensor
    sd: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("sd", torch.ones(size))

    def fit(self, x: Tensor) -> None:
        """x [n, size]; a number that never moves keeps its unit."""
        sd = x.std(0, correction=0)
        self.mean, self.sd = x.mean(0), torch.where(sd > 1e-4, sd, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.sd

    def back(self, z: Tensor) -> Tensor:
        return self.mean + self.sd * z


def of_seen(seen: Seen) -> Tensor:
    """[n, D + 2 C + M]: the latent, the diagnosis and its logarithm, and what is visible."""
    log_p = seen.p.log().clamp(min=FLOOR) / LOG_UNIT
    return torch.cat([log_p, seen.p, seen.y, seen.m.to(seen.y.dtype)], dim=-1)


def of_view(seen: Seen, view: Tensor) -> Tensor:
    """[n, D + 2 M + 1]: the latent, what is visible, and what the view adds, each modality and their share of
    all. Not the diagnosis: the latent decides it, and the class that is drawn from it is told as well."""
    m, added = seen.m.to(seen.y.dtype), (view & ~seen.m).to(seen.y.dtype)
    return torch.cat([seen.y, m, added, added.mean(-1, keepdim=True)], dim=-1)


def stratified(draws: int, key: Tensor, step: int, rows: int = 1) -> Tensor:
    """Uniform numbers, one in each S-th part of [0, 1): u_s = (k_s + u) / S for a permutation k; float64 [S],
    [rows, S] of several rows."""
    own = torch.arange(rows, device=key.device)
    words = philox_row_words(key, torch.full_like(own, step), own, draws + 1)  # [rows, S + 1]
    u = (words[:, 1:].argsort(-1).argsort(-1) + words[:, :1].double() / 2**32) / draws
    return u[0] if rows == 1 else u


def draw_classes(p: Tensor, draws: int, key: Tensor, *, exclusive: bool) -> Tensor:
    """Which classes hold, 0 or 1: p [n, C] -> [n, S, C]; one of them, or each by its own p where they are not
    exclusive.

    Stratified, so that a class has its share of the S draws but for one; the same for every patient.
    """
    C = p.shape[1]
    return classes_at(p, uniform_of_classes(C, draws, key, exclusive=exclusive), exclusive=exclusive)


def uniform_of_classes(C: int, draws: int, key: Tensor, *, exclusive: bool) -> Tensor:
    """What decides which of C classes hold: float64 [1, S] where they are exclusive, else [C, S]."""
    return stratified(draws, key, CLASSES, 1 if exclusive else C).view(-1, draws)


def classes_at(p: Tensor, u: Tensor, *, exclusive: bool) -> Tensor:
    """What `uniform_of_classes` makes of p [n, C]: [n, S, C]."""
    C = p.shape[1]
    if not exclusive:
        return (p[:, None] > u.T).to(p.dtype)
    below = p.to(u.dtype).cumsum(-1)[:, None, :-1]  # [n, 1, C - 1]
    holds = (u[0][:, None] >= below).sum(-1)  # [n, S]
    return nn.functional.one_hot(holds, C).to(p.dtype)
