"""What a network of the second stage is told: what is seen, which view is asked for, which class holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.forecast.contract import Seen
from robustmdiff.labels import Labels
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


def draw_classes(labels: Labels, p: Tensor, draws: int, key: Tensor) -> Tensor:
    """Which classes hold, 0 or 1: p [n, C] -> [n, S, C].

    Stratified, so that a class has its share of the S draws but for one; the same for every patient.
    """
    return labels.drawn(p, uniform_of_classes(labels, p.shape[1], draws, key))


def uniform_of_classes(labels: Labels, C: int, draws: int, key: Tensor) -> Tensor:
    """What `Labels.drawn` decides by which of C classes hold, float64 [choices, S]."""
    return stratified(draws, key, CLASSES, labels.choices(C)).view(-1, draws)
