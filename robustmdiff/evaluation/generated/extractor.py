"""What turns images into the features by which two sets of them are compared; said by name and by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustmdiff.evaluation.generated.judge import Judge
from robustmdiff.refusal import Refusal

BATCH = 64  # images at once


class Extractor(NamedTuple):
    """name, sha256  which it is: two distances by extractors with different hashes do not compare
    features      images float [n, C, H, W] in [-1, 1] -> [n, d]
    """

    name: str
    sha256: str
    features: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.features(images).flatten(1).detach().cpu()


def of_judge(judge: Judge) -> Extractor:
    """The features of a judge, 64 of them: made offline from the training images of one modality."""
    digest = hashlib.sha256()
    for name, tensor in sorted(judge.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Extractor("own judge", digest.hexdigest(), judge.features)


def of_torchscript(
    path: Path | str, *, size: int, channels: int, window: tuple[float, float] = (-1.0, 1.0)
) -> Extractor:
    """A network that was saved by TorchScript: [n, channels, size, size] with values in `window` -> [n, d].

    Inception-v3 takes 299 pixels and 3 channels, TorchXRayVision's DenseNet-121 224 and 1 in (-1024, 1024).
    Grey images are repeated over its channels; images are resized bilinearly with antialiasing.
    """
    path = Path(path)
    if not path.is_file():
        raise Refusal(f"{path}: there is no such file, expected a TorchScript network")
    try:
        network = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Refusal(f"{path}: is no TorchScript network ({reason})") from error
    low, high = window

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        if images.shape[1] not in (1, channels):
            raise ValueError(f"{path.name}: images have {images.shape[1]} channels, expected 1 or {channels}")
        found = []
        for part in images.float().split(BATCH):
            x = F.interpolate(part, (size, size), mode="bilinear", antialias=True)
            found.append(network(low + (x.expand(-1, channels, -1, -1) + 1) / 2 * (high - low)))
        return torch.cat(found)

    return Extractor(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), features)
