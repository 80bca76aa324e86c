"""The noise of every backend: Philox4x32-10 and normals made of its words, defined here in plain torch.

A draw depends on its key and its place, never on the launch: key = the two halves of the seed,
counter = (element // 4, row id, step, offset), word j of a counter belongs to element 4 g + j. So no
batch split, replay or thread count repeats or changes a draw.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Noising to step t draws at the counter step t + 2^31: never what the sampling step t draws.
NOISING = 2**31

_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85


def philox_key(seed: int, offset: int = 0, *, device: torch.device | str | None = None) -> Tensor:
    """int64 [2]: the bits of a 64-bit seed, and an offset (its low 32 bits count) such as the iteration."""
    signed = [(value + 2**63) % 2**64 - 2**63 for value in (seed, offset)]
    return torch.tensor(signed, dtype=torch.int64, device=device)


def philox_words(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four counters and two keys, int64 with values below 2^32, to four such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wraps to the right 64 bits
        c0, c1 = ((product1 >> 32) & _LOW) ^ c1 ^ k0, product1 & _LOW
        c2, c3 = ((product0 >> 32) & _LOW) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def philox_row_words(key: Tensor, step: Tensor, row_ids: Tensor | None, row_size: int) -> Tensor:
    """int64 [B, row_size]: the word of every element. key int64 [2]; step and row_ids int64 [B]."""
    rows = step.shape[0]
    if row_ids is None:
        row_ids = torch.arange(rows, device=step.device)
    groups = torch.arange((row_size + 3) // 4, device=step.device)
    seed, offset = key[0], key[1]
    counter = groups & _LOW, row_ids[:, None] & _LOW, step[:, None] & _LOW, offset & _LOW
    words = philox_words(counter, (seed & _LOW, (seed >> 32) & _LOW))
    return torch.stack(words, dim=-1).reshape(rows, 4 * groups.shape[0])[:, :row_size]


def philox_normal(key: Tensor, step: Tensor, row_ids: Tensor | None, row_size: int) -> Tensor:
    """float64 [B, row_size] standard normals, by Box and Muller's formula.

    Words (w0, w1) of a counter give sqrt(-2 ln u) (cos a, sin a) with u = ((w0 >> 8) + 1) / 2^24 and
    a = pi int32(w1) / 2^31; words (w2, w3) the next two. 24 bits are what float32 holds exactly.
    """
    whole = (row_size + 3) // 4 * 4
    words = philox_row_words(key, step, row_ids, whole).reshape(step.shape[0], whole // 2, 2)
    u = ((words[..., 0] >> 8) + 1).double() / 2**24
    turn = words[..., 1]
    a = (turn - ((turn >> 31) << 32)).double() * (math.pi / 2**31)
    z = torch.sqrt(-2 * torch.log(u))[..., None] * torch.stack((a.cos(), a.sin()), dim=-1)
    return z.reshape(step.shape[0], whole)[:, :row_size]
