"""A world whose conditional distributions are known: what modality j adds to the latent, given class c, is

    u_j = mu_cj + A_j g + sigma e_j,    y_m = sum of u_j over what is visible

with g and e_j standard normal. g is the patient's own, so what is seen tells of what is hidden."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from robustmdiff.forecast.contract import Pairs, Seen

M, C, D = 3, 2, 4
SIGMA = 0.5
CLASS = torch.tensor([0.7, 0.3])
g = torch.Generator().manual_seed(11)
MU = torch.randn(C, M, D, generator=g)
A = 0.7 * torch.randn(M, D, generator=g)


def patients(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """u [n, M, D] and the class int64 [n]."""
    g = torch.Generator().manual_seed(seed)
    c = torch.multinomial(CLASS, n, replacement=True, generator=g)
    own = torch.randn(n, 1, 1, generator=g) * A
    return MU[c] + own + SIGMA * torch.randn(n, M, D, generator=g), c


def pairs(n: int, seed: int) -> Pairs:
    """Every partial view of n patients beside that of everything. One patient in seven watches."""
    u, c = patients(n, seed)
    masks = torch.tensor([m for m in product([False, True], repeat=M) if not all(m)])
    who = torch.arange(n).repeat_interleave(len(masks))
    m, view = masks.repeat(n, 1), torch.ones(n * len(masks), M, dtype=torch.bool)
    evidence = u[who] * m[..., None]
    seen = Seen(evidence.sum(1), m, evidence, posterior(evidence.sum(1), m))
    label = torch.nn.functional.one_hot(c, C)[who].float()
    known = torch.ones_like(label, dtype=torch.bool)
    return Pairs(seen, view, u[who].sum(1), u[who], label, known, who, who % 7 == 6)


def given_class(y: Tensor, m: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """Mean [n, D] and covariance [n, D, D] of the whole latent, given y_m [n, D], m bool [n, M], class c."""
    seen, hidden = m.float(), (~m).float()
    a, b = seen @ A, hidden @ A  # of g
    eye = torch.eye(D)
    of_seen = a[:, :, None] * a[:, None] + SIGMA**2 * seen.sum(1)[:, None, None] * eye
    of_hidden = b[:, :, None] * b[:, None] + SIGMA**2 * hidden.sum(1)[:, None, None] * eye
    gain = b[:, :, None] * a[:, None] @ torch.linalg.pinv(of_seen)
    mean_seen, mean_hidden = (torch.einsum("nm,md->nd", w, MU[c]) for w in (seen, hidden))
    mean = y + mean_hidden + (gain @ (y - mean_seen)[..., None])[..., 0]
    return mean, of_hidden - gain @ (a[:, :, None] * b[:, None])


def posterior(y: Tensor, m: Tensor) -> Tensor:
    """p(c | y_m) [n, C]."""
    log_p = []
    for c in range(C):
        seen = m.double()
        a = seen @ A.double()
        covariance = a[:, :, None] * a[:, None] + SIGMA**2 * seen.sum(1).clamp(min=1)[
            :, None, None
        ] * torch.eye(D, dtype=torch.float64)
        error = y.double() - torch.einsum("nm,md->nd", seen, MU[c].double())
        distance = torch.einsum("nd,nde,ne->n", error, covariance.inverse(), error)
        log_p.append(CLASS[c].log() - (distance + covariance.logdet()) / 2)
    return torch.stack(log_p, -1).softmax(-1).float()
