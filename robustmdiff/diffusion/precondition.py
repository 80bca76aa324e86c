"""What a network's answer is worth at each noise level."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from robustmdiff.diffusion.schedule import Level


class Precondition(NamedTuple):
    """D(x_t) = center + c_skip (x_t - a center) + c_out F(c_in (x_t - a center); c_noise), the estimate of
    x_0 that a network F makes (Karras et al. 2022, eq. 7, on x_t = a x_0 + s eps and around a center).

    Where x_0 ~ N(center, variance), F = 0 is exact, and c_out^2 is the variance of x_0 given x_t.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor

    @classmethod
    def of_gaussian(cls, level: Level, variance: Tensor) -> Precondition:
        """For x_0 of this variance [..., D] at levels [...] (Karras et al. 2022, table 1, with sigma_data^2 =
        variance and sigma = s / a). The sign of c_out makes F a velocity as Salimans and Ho 2022 have it."""
        a, s = level.a.unsqueeze(-1), level.s.unsqueeze(-1)
        total = a.square() * variance + s.square()  # of x_t
        return cls(
            c_skip=a * variance / total,
            c_out=-s * (variance / total).sqrt(),
            c_in=total.rsqrt(),
            c_noise=level.t,
        )
