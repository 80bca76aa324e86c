"""Generated images against the real ones of the same patients.

Images are float [n, C, H, W], a modality's window mapped to [-1, 1] and clamped to it. Every measure is one
number per image, float64 [n], which `metrics.mean` averages under any weights; a measure that is a ratio of
two means is a `Ratio`. So a patient-level interval is `interval(mean(psnr(...), resamples(patients, 1000)))`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from robustmdiff.ranking import Array, check_weight, ratio

RANGE = 2.0  # of the values, from -1 to 1
WINDOW = 11  # pixels along a side of SSIM's Gaussian window (sigma 1.5)
ROUNDING = 1e-28  # squared float64 error of a Fourier coefficient of an image in [-1, 1]


class Ratio(NamedTuple):
    """A ratio of two means over images: the ratios of single images would be noise over noise.

    above, below  float64 [n]
    """

    above: Array
    below: Array

    def of(self, weight: Array) -> Array:
        """weight [..., n] -> [...]; NaN where what is below is 0."""
        check_weight("Ratio.of: weight", weight)
        return ratio(weight @ self.above, weight @ self.below)


class Spectra(NamedTuple):
    """Power by radial frequency of generated and real images, float64 [n, K] each, without the mean."""

    generated: Array
    real: Array

    def distance(self, weight: Array) -> Array:
        """Root mean square over the K frequencies of the ratio of the mean powers, in dB: weight [..., n] ->
        [...]. Equal spectra have 0, and all generated power doubled has 3.01; infinite for generated images
        without any power at a frequency, NaN for such real ones."""
        check_weight("Spectra.distance: weight", weight)
        with np.errstate(divide="ignore"):
            decibel = 10 * np.log10(ratio(weight @ self.generated, weight @ self.real))
        return np.sqrt((decibel**2).mean(-1))


def psnr(generated: Tensor, real: Tensor, mask: Tensor | None = None) -> Array:
    """Peak signal-to-noise ratio in dB of each image, [n]: range 2, over all pixels and channels, or over
    those where mask, bool [n, 1, H, W], is True. Infinite for an exact copy.

    The mean over images of this is not the PSNR of the pooled error, which is lower: report the former.
    """
    generated, real = _pair("psnr", generated, real)
    keep = torch.ones_like(real[:, :1], dtype=torch.bool) if mask is None else _mask("psnr", mask, real)
    keep = keep.expand_as(real)
    each = [
        peak_signal_noise_ratio(x[k], y[k], data_range=RANGE)
        for x, y, k in zip(generated, real, keep, strict=True)
    ]
    return torch.stack(each).numpy()


def ssim(generated: Tensor, real: Tensor) -> Array:
    """Structural similarity (Wang et al. 2004) of each image, [n]: mapped to [0, 1], range 1, an 11 x 11
    Gaussian window (sigma 1.5), images mirrored at the border, the mean over all pixels and channels."""
    generated, real = _pair("ssim", generated, real)
    if min(real.shape[-2:]) < WINDOW:
        size = " x ".join(map(str, real.shape[-2:]))
        raise ValueError(f"ssim: images are {size}, expected at least {WINDOW} x {WINDOW}")
    each = structural_similarity_index_measure(
        (generated + 1) / 2, (real + 1) / 2, data_range=1.0, sigma=1.5, reduction="none"
    )
    assert isinstance(each, Tensor)
    return each.numpy()


def averaged_psnr(samples: Tensor, real: Tensor, mask: Tensor | None = None) -> Array:
    """PSNR of the mean of N samples, [N, n, C, H, W], plus 10 log10(1 + 1 / N).

    The mean of N honest draws has (1 + 1 / N) times the squared error of the conditional mean, so this is
    what the sampler's own conditional mean reaches: compare it with a regression.
    """
    N = _samples("averaged_psnr", samples, real)
    return psnr(samples.double().mean(0), real, mask) + 10 * np.log10(1 + 1 / N)


def spread_over_skill(samples: Tensor, real: Tensor) -> Ratio:
    """(N + 1) / N times the variance of N samples, [N, n, C, H, W], over the squared error of their mean: 1
    of a calibrated sampler, less of one that is too sure (Fortin et al. 2014, who take the root)."""
    N = _samples("spread_over_skill", samples, real)
    if N < 2:
        raise ValueError("spread_over_skill: there is 1 sample of each image, expected at least 2")
    mean, real = _pair("spread_over_skill", samples.double().mean(0), real)
    variance = samples.double().var(0)  # unbiased
    return Ratio((N + 1) / N * _per_image(variance), _per_image((mean - real) ** 2))


def sharpness(generated: Tensor, real: Tensor) -> Ratio:
    """Energy of the Laplacian (five points, inside the border) of generated over that of real images: below 1
    they are too smooth, above it too rough."""
    return Ratio(*(_laplacian_energy(x) for x in _pair("sharpness", generated, real)))


def spectra(generated: Tensor, real: Tensor) -> Spectra:
    """Power at the radial frequencies 1 to min(H, W) // 2, in cycles per image, each the mean over a ring."""
    return Spectra(*(_radial_power(x) for x in _pair("spectra", generated, real)))


def _laplacian_energy(x: Tensor) -> Array:
    """[n, C, H, W] -> [n]."""
    stencil = x.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return _per_image(F.conv2d(x.flatten(0, 1)[:, None], stencil[None, None]).reshape(len(x), -1) ** 2)


def _radial_power(x: Tensor) -> Array:
    """[n, C, H, W] -> [n, K]."""
    H, W = x.shape[-2:]
    power = torch.fft.fft2(x, norm="forward").abs().square().mean(1).flatten(1)  # [n, H W]
    rows, columns = torch.fft.fftfreq(H, 1 / H), torch.fft.fftfreq(W, 1 / W)
    radius = torch.hypot(rows[:, None], columns[None]).round().long().flatten()
    rings = [power[:, radius == k].mean(1) for k in range(1, min(H, W) // 2 + 1)]
    found = torch.stack(rings, dim=1)
    return torch.where(found < ROUNDING, 0.0, found).numpy()


def _per_image(value: Tensor) -> Array:
    return value.flatten(1).mean(1).numpy()


def _pair(name: str, generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, on the CPU."""
    if real.ndim != 4 or 0 in real.shape:
        raise ValueError(f"{name}: real is {list(real.shape)}, expected images [n, C, H, W]")
    if generated.shape != real.shape:
        raise ValueError(
            f"{name}: generated is {list(generated.shape)}, expected {list(real.shape)} like real"
        )
    for what, x in (("generated", generated), ("real", real)):
        if not x.isfinite().all():
            wrong = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"{name}: {what}[{wrong}] holds NaN or infinity, expected finite pixels")
    if real.abs().max() > RANGE / 2 + 1e-6:
        worst = float(real.abs().max())
        raise ValueError(f"{name}: real reaches {worst:g} in size, expected the window mapped to [-1, 1]")
    return generated.detach().double().cpu(), real.detach().double().cpu()


def _mask(name: str, mask: Tensor, real: Tensor) -> Tensor:
    expected = [len(real), 1, *real.shape[-2:]]
    if mask.dtype != torch.bool or list(mask.shape) != expected:
        raise ValueError(f"{name}: mask is {mask.dtype} {list(mask.shape)}, expected bool {expected}")
    if not mask.flatten(1).any(1).all():
        empty = int((~mask.flatten(1).any(1)).nonzero()[0])
        raise ValueError(f"{name}: mask[{empty}] keeps no pixel, expected at least one")
    return mask.cpu()


def _samples(name: str, samples: Tensor, real: Tensor) -> int:
    """How many samples there are of each image."""
    if samples.ndim != 5 or len(samples) == 0 or samples.shape[1:] != real.shape:
        raise ValueError(
            f"{name}: samples are {list(samples.shape)}, expected [N, {', '.join(map(str, real.shape))}]"
        )
    return len(samples)
