"""Sets of generated images against sets of real ones: FID and KID by a stated extractor, and memorisation.

Two such distances are comparable only if the extractor, the size of the images and, for FID, the numbers of
images are the same. So every result names its extractor by a hash of the weights, and has the distance of
real images from real ones beside it: halves of the real set, split by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from robustmdiff.evaluation.generated.extractor import Extractor
from robustmdiff.ranking import Array
from robustmdiff.refusal import Refusal

HALVINGS = 20  # of the real set


class SetDistance(NamedTuple):
    """value      of generated from real images
    sd         over subsets (KID); 0 where all images enter at once (FID)
    halves     the mean of two halves of the real images, over 20 ways to halve the patients
    halves_sd  their standard deviation
    real, generated  how many images
    extractor  its name and the start of the SHA-256 of its weights
    """

    value: float
    sd: float
    halves: float
    halves_sd: float
    real: int
    generated: int
    extractor: str


class _Given(nn.Module):
    """Takes features where torchmetrics expects a network that makes them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(
    generated: Tensor, real: Tensor, extractor: Extractor, people: Sequence[str], seed: int = 0
) -> SetDistance:
    """FID (Heusel et al. 2017), with whatever extractor is given: Inception's if it is Inception.

    generated, real  float [n, C, H, W] in [-1, 1]
    people           of the real images, by whom they are halved

    Biased upwards, the more the fewer images there are; so the halves, of half as many, are a floor that is
    too high. Refusal where a half has no more images than the extractor has features: its covariance would be
    singular, and `kernel_distance` is to be used.
    """
    g, r = (_features("frechet_distance", x, extractor) for x in (generated, real))
    width, least = g.shape[1], min(len(g), len(r) // 2)
    if least <= width:
        raise Refusal(
            f"FID of {len(g)} generated and {len(r)} real images by an extractor of {width} features: "
            f"expected more than {width} generated and {2 * width + 2} or more real ones, or KID"
        )
    halves = [_fid(r[half], r[~half]) for half in _halvings(people, len(r), seed)]
    return _result(_fid(g, r), 0.0, halves, g, r, extractor)


def kernel_distance(
    generated: Tensor, real: Tensor, extractor: Extractor, people: Sequence[str], seed: int = 0
) -> SetDistance:
    """KID (Binkowski et al. 2018; the cubic kernel), unbiased for any number of images: the mean of 20 pairs
    of subsets as large as the halves of the real set are, so that their standard deviations compare.
    Arguments as of `frechet_distance`."""
    g, r = (_features("kernel_distance", x, extractor) for x in (generated, real))
    splits = _halvings(people, len(r), seed)
    size = min(len(g), *(int(min(half.sum(), (~half).sum())) for half in splits))
    if size < 2:
        raise Refusal(
            f"KID of {len(g)} generated and {len(r)} real images: expected at least 2 generated ones, and 2 "
            "in each half of the real ones"
        )
    value, sd = _kid(g, r, HALVINGS, size, seed)
    halves = [_kid(r[half], r[~half], 1, size, seed)[0] for half in splits]
    return _result(value, sd, halves, g, r, extractor)


class Memorisation(NamedTuple):
    """Distances to the nearest training image, after the same encoding: of generated images, of real images
    that are new, float64 [n] each; and which training image it is of the generated ones, int64 [n]."""

    generated: Array
    new: Array
    nearest: np.ndarray

    @property
    def copied(self) -> float:
        """The share of generated images that are nearer to a training image than 99 of 100 new real ones are:
        .01 for a model that copies nobody."""
        return float((self.generated < np.quantile(self.new, 0.01)).mean())


def memorisation(
    generated: Tensor, new: Tensor, trained_on: Tensor, encode: Callable[[Tensor], Tensor]
) -> Memorisation:
    """How near generated images come to the training images, against new real images.

    encode  what all three pass through, [n, C, H, W] -> [n, ...]: the model's own latent (decoded again, or
            not), or a model whose latent is smoother than real images seems to copy.
    """
    bank = encode(trained_on).flatten(1)
    distance, index = nearest(encode(generated).flatten(1), bank)
    return Memorisation(distance, nearest(encode(new).flatten(1), bank)[0], index)


def nearest(query: Tensor, bank: Tensor) -> tuple[Array, np.ndarray]:
    """The distance of each query [n, d] to the nearest row of bank [N, d], and which: [n] each."""
    if query.ndim != 2 or bank.ndim != 2 or query.shape[1] != bank.shape[1] or 0 in (len(query), len(bank)):
        raise ValueError(
            f"nearest: query is {list(query.shape)} and bank {list(bank.shape)}, expected [n, d] and [N, d]"
        )
    for name, x in (("query", query), ("bank", bank)):
        if not x.isfinite().all():
            raise ValueError(f"nearest: {name} holds NaN or infinity, expected finite numbers")
    query, bank = (x.detach().double().cpu() for x in (query, bank))
    # without the matrix product, whose rounding hides that a copy is one
    distance = torch.cdist(query, bank, compute_mode="donot_use_mm_for_euclid_dist")
    least, index = distance.min(1)
    return least.numpy(), index.numpy()


def _features(name: str, images: Tensor, extractor: Extractor) -> Tensor:
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"{name}: images are {list(images.shape)}, expected [n, C, H, W]")
    if not images.isfinite().all():
        raise ValueError(f"{name}: images hold NaN or infinity, expected finite pixels")
    return extractor(images).double()


def _halvings(people: Sequence[str], n: int, seed: int) -> list[np.ndarray]:
    """Which rows are in the first half, bool [n], in several ways."""
    if len(people) != n:
        raise ValueError(f"people are {len(people)}, expected {n}, one per real image")
    names, member = np.unique(np.asarray(people, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise Refusal(f"the real images are of {len(names)} patient, expected at least 2 to halve them")
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.arange(len(names)) % 2 == 0)[member] for _ in range(HALVINGS)]


def _fid(a: Tensor, b: Tensor) -> float:
    metric = FrechetInceptionDistance(feature=_Given(a.shape[1])).set_dtype(torch.float64)
    metric.update(a, real=False)
    metric.update(b, real=True)
    return float(metric.compute())


def _kid(a: Tensor, b: Tensor, subsets: int, size: int, seed: int) -> tuple[float, float]:
    metric = KernelInceptionDistance(feature=_Given(a.shape[1]), subsets=subsets, subset_size=size)
    metric.update(a, real=False)
    metric.update(b, real=True)
    with torch.random.fork_rng(devices=[]):  # it draws subsets from the global generator
        torch.manual_seed(seed)
        mean, sd = metric.compute()
    return float(mean), float(sd)


def _result(
    value: float, sd: float, halves: list[float], g: Tensor, r: Tensor, extractor: Extractor
) -> SetDistance:
    name = f"{extractor.name} {extractor.sha256[:12]}"
    return SetDistance(value, sd, float(np.mean(halves)), float(np.std(halves)), len(r), len(g), name)
