"""The network of a vector latent: a residual multi-layer perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmdiff.diffusion.denoiser import Block, sinusoid
from robustmdiff.generation.networks.grid import TIME, TIME_UNIT, Guide

WIDTH, DEPTH = 256, 3


class VectorNetwork(nn.Module):
    """Residual blocks that the time and what is told shift and scale; it is asked as `GridNetwork` is.

    latent  numbers in, and out
    told    numbers in the vector that each block is told besides the time
    width   of a hidden state, a multiple of 4 (`CrossGuidance`)
    depth   blocks

    What it says is 0 before anything is learned.
    """

    def __init__(self, latent: int, told: int, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.enter = nn.Linear(latent, width)
        self.condition = nn.Sequential(
            nn.Linear(TIME + told, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Linear(width, latent)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.block_widths = (width,) * depth  # numbers in what each block gives

    def forward(self, x: Tensor, t: Tensor, told: Tensor, guide: Guide | None = None) -> Tensor:
        """x [n, latent]; t [n] or [], 0 to 1; told [n, told] -> [n, latent].

        guide  is given what each block gave, [n, width], with the block's number, and says what is gone on
               with.
        """
        time = sinusoid(TIME_UNIT * t, TIME).to(told.dtype).expand(len(x), -1)
        c = self.condition(torch.cat([time, told], dim=1))
        h = self.enter(x)
        for i, block in enumerate(self.blocks):
            h = block(h, c)
            h = h if guide is None else guide(i, h)
        return self.leave(h)
