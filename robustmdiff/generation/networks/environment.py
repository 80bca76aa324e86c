"""What a flow tells the others of where it stands: V_A of its noisy latent."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from robustmdiff.diffusion.denoiser import sinusoid
from robustmdiff.generation.networks.grid import TIME, TIME_UNIT

WIDTH, GRID_WIDTHS = 256, (32, 64)
ENVIRONMENT = 64  # k, the numbers of an environment vector


class EnvironmentEncoder(nn.Module):
    """V_A(z_t, t): a noisy latent as a unit vector of k numbers (CoDi, Tang et al. 2023, section 3.3).

    shape  of one latent: of a vector [D] by two linear layers, of a grid [c, h, w] by two convolutions whose
           answers are averaged over all positions
    """

    def __init__(self, shape: Sequence[int], k: int = ENVIRONMENT) -> None:
        super().__init__()
        self.enter: nn.Module
        self.look: nn.Module
        if len(shape) == 1:
            first = last = WIDTH
            self.enter, self.look = nn.Linear(shape[0], first), nn.Linear(first, last)
        else:
            first, last = GRID_WIDTHS
            self.enter = nn.Conv2d(shape[0], first, 3, padding=1)
            self.look = nn.Conv2d(first, last, 3, stride=2, padding=1)
        self.time = nn.Linear(TIME, first)
        self.leave = nn.Linear(last, k)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """z [n, *shape]; t [n] or [], 0 to 1 -> unit vectors [n, k]."""
        h = self.enter(z)
        time = self.time(sinusoid(TIME_UNIT * t, TIME).to(z.dtype).expand(len(z), -1))
        h = silu(h + time.view(*time.shape, *[1] * (h.dim() - 2)))
        h = silu(self.look(h))
        return normalize(self.leave(h if h.dim() == 2 else h.mean(dim=(2, 3))), dim=1)
