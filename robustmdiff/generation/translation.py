"""From images of a patient to another one in the same frame: a contrast of MRI from others, MRI from CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robustmdiff.generation.latents.latent import ImageLatent
from robustmdiff.generation.networks.grid import GridNetwork
from robustmdiff.generation.residual_flow import Known, ResidualFlow
from robustmdiff.refusal import Refusal

SEEN_FROM_THE_START = 1.0  # the time that a network is told that has no noise to remove


class Packed(NamedTuple):
    """The latents of n frames, side by side; what is absent is 0.

    z        float32 [n, channels of all series, h, w]
    present  bool [n, series]
    """

    z: Tensor
    present: Tensor


class Draft(nn.Module):
    """The regression: the mean of one series given any of the others, one network for all that are asked for.

    A *series* is a modality in the patient's frame: pixel (i, j) of each of them shows the same place.

    latents  of each series, by name: grids of one size
    targets  which of them can be asked for
    widths   of the network (`GridNetwork`)
    """

    def __init__(
        self, latents: Mapping[str, ImageLatent], targets: Sequence[str], widths: tuple[int, int] = (32, 64)
    ) -> None:
        super().__init__()
        self.series, self.targets = tuple(latents), tuple(targets)
        self.latents = nn.ModuleDict(latents).requires_grad_(False)
        self.shapes = {name: tuple(latent.shape) for name, latent in latents.items()}
        check_shapes(self.shapes, self.targets)
        self.sizes = [shape[0] for shape in self.shapes.values()]
        self.beside = sum(self.sizes) + len(self.series)  # channels that tell what is seen
        self.latent = self.shapes[self.targets[0]]
        self.network = GridNetwork((self.beside, self.latent[0]), len(self.targets), widths)

    def latent_of(self, name: str) -> ImageLatent:
        return cast(ImageLatent, self.latents[name])

    def pack(self, images: Mapping[str, Tensor], present: Tensor | None = None) -> Packed:
        """images  float32 [n, C, H, W] by series, as `ImageLatent` takes them; a series without is absent
        present  bool [n, series], whose rows count; None: all of those given. What is absent is never read.
        """
        for name in images:
            if name not in self.series:
                raise Refusal(f"there is no series {name!r}, expected some of {', '.join(self.series)}")
        if not images:
            raise Refusal(f"no images are given, expected some of {', '.join(self.series)}")
        first, n = next((name, len(x)) for name, x in images.items())
        given = torch.tensor([name in images for name in self.series])
        if present is None:
            present = given.expand(n, -1)
        if present.shape != (n, len(self.series)):
            raise Refusal(f"present is {list(present.shape)}, expected {[n, len(self.series)]}")
        for name in (name for name, there in zip(self.series, present.any(0) & ~given, strict=True) if there):
            raise Refusal(f"series {name!r} is said to be present, but no images of it are given")
        packed = torch.zeros(n, sum(self.sizes), *self.latent[1:], device=next(self.parameters()).device)
        for i, (name, z) in enumerate(zip(self.series, packed.split(self.sizes, dim=1), strict=True)):
            if name in images:
                if len(images[name]) != n:
                    raise Refusal(f"{name} has {len(images[name])} images, expected {n}, as {first}")
                rows = present[:, i].nonzero()[:, 0]
                z[rows] = self.latent_of(name).encode(images[name][rows].to(z.device))
        return Packed(packed, present.to(packed.device))

    def of_targets(self, packed: Packed, to: Tensor) -> Tensor:
        """The latents [n, c, h, w] of the targets with numbers `to`, int64 [n]."""
        by_series = packed.z.split(self.sizes, dim=1)
        each = torch.stack([by_series[self.series.index(name)] for name in self.targets], dim=1)
        return each[torch.arange(len(to), device=to.device), to]

    def known(self, packed: Packed, to: Tensor) -> Known:
        """The draft of the targets with numbers `to`, int64 [n], from all that is present but themselves."""
        h, w = packed.z.shape[2:]
        numbers = torch.tensor([self.series.index(name) for name in self.targets], device=to.device)
        shown = packed.present & ~one_hot(numbers[to], len(self.series)).bool()
        by_channel = shown.repeat_interleave(torch.tensor(self.sizes, device=to.device), dim=1)
        z = packed.z.where(by_channel[:, :, None, None], 0)
        beside = torch.cat([z, shown[:, :, None, None].expand(-1, -1, h, w).to(z)], dim=1)
        told = one_hot(to, len(self.targets)).to(z)
        return Known(self.network(beside, z.new_tensor(SEEN_FROM_THE_START), told), beside, told)

    def asked(self, images: Mapping[str, Tensor], to: str, present: Tensor | None) -> Known:
        """What is known of a target; Refusal where that is nothing."""
        if to not in self.targets:
            raise Refusal(f"to is {to!r}, expected one of {', '.join(self.targets)}")
        packed = self.pack(images, present)
        others = [i for i, name in enumerate(self.series) if name != to]
        nothing = (~packed.present[:, others].any(1)).nonzero()
        if len(nothing):
            names = ", ".join(self.series[i] for i in others)
            raise Refusal(
                f"row {int(nothing[0])} has nothing that {to} can be made of, expected one of {names}"
            )
        return self.known(
            packed, torch.full((len(packed.z),), self.targets.index(to), device=packed.z.device)
        )

    @torch.no_grad()
    def mean(self, images: Mapping[str, Tensor], to: str, present: Tensor | None = None) -> Tensor:
        """The expected image [n, C, H, W]; images and present as in `pack`. One that is given of the target
        itself is not read."""
        draft = self.asked(images, to, present).draft
        return self.latent_of(to).decode(draft)


class Translation(nn.Module):
    """A draft, and a flow on what it leaves open: draws of one series given any of the others.

    Trained one after the other (`train_translation`); a draft needs no flow to answer with its mean.
    """

    def __init__(self, draft: Draft, widths: tuple[int, int] = (32, 64)) -> None:
        super().__init__()
        self.draft = draft
        self.flow = ResidualFlow(draft.latent, draft.beside, len(draft.targets), widths)

    def mean(self, images: Mapping[str, Tensor], to: str, present: Tensor | None = None) -> Tensor:
        """`Draft.mean`."""
        return self.draft.mean(images, to, present)

    @torch.no_grad()
    def sample(
        self,
        images: Mapping[str, Tensor],
        to: str,
        present: Tensor | None = None,
        *,
        draws: int = 1,
        steps: int = 4,
        key: Tensor,
        row_ids: Tensor | None = None,
    ) -> Tensor:
        """Draws of the image, [n, draws, C, H, W]; images and present as in `Draft.pack`, steps, key and
        row_ids as in `ResidualFlow.sample`."""
        for name, value in (("draws", draws), ("steps", steps)):
            if value < 1:
                raise Refusal(f"{name} is {value}, expected at least 1")
        known = self.draft.asked(images, to, present)
        z = self.flow.sample(known, draws, steps, key=key, row_ids=row_ids)
        return self.draft.latent_of(to).decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def check_shapes(shapes: Mapping[str, tuple[int, ...]], targets: Sequence[str]) -> None:
    """Refusal of series that do not lie side by side."""
    if len(shapes) < 2:
        raise Refusal(f"series are {', '.join(shapes) or 'none'}, expected at least two")
    if not targets:
        raise Refusal("targets is empty, expected at least one series")
    for name in targets:
        if name not in shapes:
            raise Refusal(f"target {name!r} is no series, expected one of {', '.join(shapes)}")
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if len(shape) != 3:
            raise Refusal(f"the latent of {name} is {list(shape)}, expected a grid, [c, h, w]")
        if shape[1:] != shapes[first][1:]:
            raise Refusal(
                f"the latent of {name} is a grid of {list(shape[1:])}, expected {list(shapes[first][1:])}, "
                f"that of {first}"
            )
    c = shapes[targets[0]][0]
    for name in targets:
        if shapes[name][0] != c:
            raise Refusal(
                f"target {name} has latents of {shapes[name][0]} channels, expected {c}, as {targets[0]}: "
                "one network makes all of them"
            )
