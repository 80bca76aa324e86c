"""Vectors of what is absent from vectors of what is there, where every row lacks something else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from robustmdiff.generation.multi_flow import MultiFlow


@torch.no_grad()
def complete(
    flows: MultiFlow,
    h: Tensor,
    m: Tensor,
    lacking: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance: float = 1.0,
    reads: bool = True,
) -> Tensor:
    """Unit vectors [n, M, d]: those that are there to the bit, those that are lacking as the flows draw them,
    all of a row together, 0 elsewhere.

    flows    one of each of the M modalities, in their order, of latents [d]: vectors times sqrt(d)
    h, m     unit vectors [n, M, d], and which there are, bool [n, M]; what stands at the others is not read
    lacking  bool [n, M], what is generated of what is not there
    noise    [n, M, d], where each flow begins: what is drawn is a function of it and of the row
    steps    of Euler
    guidance as in `MultiFlow.sample`
    reads    whether a flow reads what is there as it reads the others, besides being told it as a prompt
    """
    known = torch.where(m[..., None], h, 0)
    rows = lacking.any(1).nonzero()[:, 0]
    if not len(rows):
        return known
    made = _drawn(flows, known[rows], m[rows], lacking[rows], noise[rows], steps, guidance, reads)
    return known.index_put((rows,), torch.where(lacking[rows][..., None], made, known[rows]))


def _drawn(
    flows: MultiFlow,
    h: Tensor,
    m: Tensor,
    lacking: Tensor,
    noise: Tensor,
    steps: int,
    guidance: float,
    reads: bool,
) -> Tensor:
    asked = flows.told(h, m, flows.names), lacking | m if reads else lacking
    nothing = flows.told(h, m, flows.names, torch.ones_like(m[:, 0])), lacking
    x = torch.where(m[..., None], h.shape[2] ** 0.5 * h, noise)
    for step in range(steps, 0, -1):
        t = x.new_tensor(step / steps)
        v = _velocity(flows, x, t, m, lacking, *(asked if guidance else nothing))
        if guidance not in (0, 1):  # classifier-free (Ho and Salimans 2022)
            v = torch.lerp(_velocity(flows, x, t, m, lacking, *nothing), v, guidance)
        x = torch.where(lacking[..., None], x - v / steps, x)
    return normalize(x, dim=2)


def _velocity(
    flows: MultiFlow,
    x: Tensor,
    t: Tensor,
    m: Tensor,
    lacking: Tensor,
    c: dict[str, Tensor],
    seen: Tensor,
) -> Tensor:
    """dx / dt of x [n, M, d]; 0 of a modality that no row lacks. What is there stands at t = 0."""
    names = flows.names
    z = dict(zip(names, x.unbind(1), strict=True))
    at = dict(zip(names, torch.where(m, 0, t).unbind(1), strict=True))
    wanted = {name: z[name] for name, some in zip(names, lacking.any(0).tolist(), strict=True) if some}
    visible = dict(zip(names, seen.unbind(1), strict=True))
    said = flows.velocity(wanted, t, c, flows.environments(z, at), visible)
    return torch.stack([said[name] if name in said else torch.zeros_like(z[name]) for name in names], dim=1)
