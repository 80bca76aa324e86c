"""Does a patient's one modality find the same patient's other?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Retrieval(NamedTuple):
    """rank      mean percentile rank: the share of the other patients who come after the right one; chance .5
    at_1, at_10  share of queries whose right answer is the first, or among the first ten (R@1, R@10)
    patients  n, each asked for in both directions; chance is 1 / n and min(1, 10 / n)
    """

    rank: float
    at_1: float
    at_10: float
    patients: int

    @property
    def chance(self) -> Retrieval:
        n = self.patients
        return Retrieval(0.5, 1 / n, min(1.0, 10 / n), n)


def retrieval(a: Tensor, b: Tensor) -> Retrieval:
    """Of unit vectors a, b [n, d], row i of both of patient i, n >= 2: the mean over both directions.

    Equals count as a draw by lot would, so that vectors that say nothing are at chance.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) < 2:
        raise ValueError(f"retrieval: a is {list(a.shape)} and b {list(b.shape)}, expected both [n >= 2, d]")
    n = len(a)
    cosine = (a.double() @ b.double().T).round(decimals=12)  # sums of another order shall stay equal
    own = cosine.diagonal()
    found = []
    for scores in (cosine, cosine.T):
        above = (scores > own[:, None]).sum(1).double()
        equal = (scores == own[:, None]).sum(1).double()  # itself among them
        rank = 1 - (above + (equal - 1) / 2) / (n - 1)
        found.append([rank.mean(), *(((k - above) / equal).clamp(0, 1).mean() for k in (1, 10))])
    rank, at_1, at_10 = torch.tensor(found).mean(0).tolist()
    return Retrieval(rank, at_1, at_10, n)
