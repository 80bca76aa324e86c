"""Other views of the same image, as another exposure or another position of the patient would give.

Safe for radiographs: no mirror (which side the heart is on is a finding) and no colour. All of an image's
channels are changed alike.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from robustmdiff.data.batch import Batch
from robustmdiff.data.kinds.image import Images
from robustmdiff.data.task import Task
from robustmdiff.encoders.image import denormalise, normalise

SHIFT = 0.03  # of a side, to each side
ZOOM = 0.03  # larger or smaller
TURN = 0.05  # rad, 3 degrees
GAMMA = 0.1  # exponents from exp(-.1) to exp(.1)
GAIN = 0.05  # intensities by 1 - .05 to 1 + .05
BLUR = 0.3  # highest share of the image that is blurred by (1, 2, 1) / 4
NOISE = 0.03  # highest standard deviation, where the window is [-1, 1]


def another_view(x: Tensor, generator: torch.Generator) -> Tensor:
    """x [n >= 1, C, H, W], its window mapped to [-1, 1] -> the same, inside the window: moved, exposed,
    blurred and made noisy, each image by numbers of its own.

    generator  of the CPU: the views are the same on every device
    """
    n = len(x)
    draws = torch.rand(8, n, 1, 1, 1, generator=generator).to(x.device)
    x = _moved(x.clamp(-1, 1), *(2 * draws[:4] - 1).flatten(1))
    gamma, gain = (GAMMA * (2 * draws[4] - 1)).exp(), 1 + GAIN * (2 * draws[5] - 1)
    x = gain * ((x + 1) / 2).clamp(0, 1) ** gamma * 2 - 1
    x = torch.lerp(x, _blurred(x), BLUR * draws[6])
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return (x + NOISE * draws[7] * noise).clamp(-1, 1)


def views_of(batch: Batch[Tensor], task: Task, generator: torch.Generator) -> Batch[Tensor]:
    """The batch with another view of every image; everything else as it is."""
    inputs = dict(batch.inputs)
    for modality in task.of_kind("image"):
        images = inputs.get(modality.name)
        if isinstance(images, Images) and len(images.rows):
            x = another_view(normalise(images.pixels, modality.low_high), generator)
            inputs[modality.name] = images._replace(pixels=denormalise(x, modality.low_high))
    return replace(batch, inputs=inputs)


def _moved(x: Tensor, across: Tensor, down: Tensor, zoom: Tensor, turn: Tensor) -> Tensor:
    """Each in [-1, 1], [n]. What comes in from outside continues the edge."""
    H, W = x.shape[-2:]
    scale, angle = 1 + ZOOM * zoom, TURN * turn
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [cos, -sin * H / W, 2 * SHIFT * across, sin * W / H, cos, 2 * SHIFT * down]
    grid = functional.affine_grid(torch.stack(rows, -1).view(-1, 2, 3), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _blurred(x: Tensor) -> Tensor:
    """By (1, 2, 1) / 4 along both sides; edges repeat."""
    kernel = x.new_tensor([0.25, 0.5, 0.25]).expand(x.shape[1], 1, 1, 3)
    x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    x = functional.conv2d(x, kernel, groups=x.shape[1])
    return functional.conv2d(x, kernel.mT, groups=x.shape[1])
