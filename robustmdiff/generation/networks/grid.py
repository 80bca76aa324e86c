"""The network of a grid latent: a UNet of two levels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from robustmdiff.diffusion.denoiser import sinusoid

GROUPS = 8  # of a norm's channels
HEADS = 4
TIME = 32  # numbers that tell the time
TIME_UNIT = 1000.0  # a flow's t in [0, 1] as the timesteps that `sinusoid` is made for

Guide = Callable[[int, Tensor], Tensor]  # (number of the block, what it gave) -> what the next one is given


class GridNetwork(nn.Module):
    """A UNet (Ho et al. 2020, appendix B) on [channels, h, w], of any h and w: at full and at half resolution
    one residual block on the way down and one on the way up, and self-attention in between, at half.

    channels  (in, out). What is known pixel for pixel, a source image for one, is part of what comes in.
    told      numbers in the vector that each block is told besides the time (FiLM, Perez et al. 2018).
    widths    channels at full and at half resolution, multiples of 8.

    What it says is 0 before anything is learned.
    """

    def __init__(self, channels: tuple[int, int], told: int = 0, widths: tuple[int, int] = (32, 64)) -> None:
        super().__init__()
        for width in widths:
            if width < GROUPS or width % GROUPS:
                raise ValueError(f"widths are {widths}, expected multiples of {GROUPS}")
        (into, out), (fine, coarse) = channels, widths
        self.told = told
        self.condition = nn.Sequential(
            nn.Linear(TIME + told, coarse), nn.SiLU(), nn.Linear(coarse, coarse), nn.SiLU()
        )
        self.enter = nn.Conv2d(into, fine, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                ResidualBlock(fine, fine, coarse),
                ResidualBlock(coarse, coarse, coarse),
                ResidualBlock(coarse, coarse, coarse),
                ResidualBlock(2 * fine, fine, coarse),
            ]
        )
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.attend = SelfAttention(coarse)
        self.up = nn.Conv2d(coarse, fine, 1)
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, fine), nn.SiLU(), zero(nn.Conv2d(fine, out, 3, padding=1))
        )
        self.block_widths = fine, coarse, coarse, fine  # channels of what each block gives

    def forward(self, x: Tensor, t: Tensor, told: Tensor | None = None, guide: Guide | None = None) -> Tensor:
        """x [n, in, h, w]; t [n] or [], 0 to 1; told [n, told] -> [n, out, h, w].

        guide  is given what each block gave, [n, channels, h, w] or at half resolution, with the block's
               number, and says what is gone on with.
        """
        c = self._condition(x, t, told)
        fine_down, coarse_down, coarse_up, fine_up = self.blocks

        def guided(block: int, h: Tensor) -> Tensor:
            return h if guide is None else guide(block, h)

        fine = guided(0, fine_down(self.enter(x), c))
        coarse = guided(1, coarse_down(self.down(fine), c))
        coarse = guided(2, coarse_up(self.attend(coarse), c))
        grown = interpolate(self.up(coarse), size=fine.shape[2:])
        return self.leave(guided(3, fine_up(torch.cat([grown, fine], dim=1), c)))

    def _condition(self, x: Tensor, t: Tensor, told: Tensor | None) -> Tensor:
        """What all blocks are told [n, width]."""
        told = x.new_empty(len(x), 0) if told is None else told
        if told.shape != (len(x), self.told):
            raise ValueError(f"told is {list(told.shape)}, expected {[len(x), self.told]}")
        time = sinusoid(TIME_UNIT * t, TIME).to(told.dtype).expand(len(x), -1)
        return self.condition(torch.cat([time, told], dim=1))


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity; the second one's norm is scaled and shifted by the condition
    (Dhariwal and Nichol 2021, section 3.1)."""

    def __init__(self, into: int, out: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(GROUPS, into), nn.SiLU(), nn.Conv2d(into, out, 3, padding=1))
        self.norm = nn.GroupNorm(GROUPS, out)
        self.modulate = nn.Linear(condition, 2 * out)
        self.second = zero(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x [n, into, h, w], c [n, condition] -> [n, out, h, w]."""
        scale, shift = self.modulate(c)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        return self.skip(x) + self.second(silu(h))


class SelfAttention(nn.Module):
    """Every position asks every other, beside the identity (Ho et al. 2020, appendix B)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.leave = zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [n, width, h, w] -> the same shape."""
        qkv = self.qkv(self.norm(x)).flatten(2)  # [n, 3 width, h w]
        q, k, v = qkv.unflatten(1, (3, HEADS, -1)).mT.unbind(1)  # [n, HEADS, h w, width / HEADS]
        read = scaled_dot_product_attention(q, k, v)
        return x + self.leave(read.mT.flatten(1, 2).view_as(x))


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer, which says 0 before anything is learned."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
