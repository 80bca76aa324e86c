"""How good translations are, beside a regression of equal steps, what needs no network, and prompts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from robustmdiff.data.patient import Patient
from robustmdiff.evaluation.generated.image_sets import nearest
from robustmdiff.evaluation.generated.images import (
    averaged_psnr,
    psnr,
    sharpness,
    spread_over_skill,
    ssim,
)
from robustmdiff.evaluation.metrics import mean
from robustmdiff.evaluation.statistics import resamples
from robustmdiff.experiment.generated.rows import REPLICATES, Row, measured
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.generation.observed import encodable, frame_of, images_of, without
from robustmdiff.generation.translation import Translation
from robustmdiff.generation.translation_baselines import PrincipalRidge, mean_image
from robustmdiff.ops import philox_key

AT_ONCE = 32  # patients
MOST = 200  # patients: sixteen draws of each are seconds a patient
PROMPTED = 100  # of whom images are drawn from prompts as well


class Asked(NamedTuple):
    """A target, what of its frame is hidden besides, and a name of what is left."""

    target: str
    hidden: tuple[str, ...]
    sources: str

    def __str__(self) -> str:
        return f"{self.sources} -> {self.target}"


def asked_of(frame: Sequence[str], image_of: Mapping[str, str]) -> list[Asked]:
    """Each series of a frame from all others, and, where the frame has series of several images (MRI and CT),
    from those of each other image alone. image_of names the image of which a series is a channel."""
    asked = [Asked(target, (), "others") for target in frame]
    for target in frame:
        images = {image_of.get(name, name) for name in frame if name != target}
        for image in sorted(images - {image_of.get(target, target)}):
            hidden = tuple(n for n in frame if n != target and image_of.get(n, n) != image)
            if hidden:
                asked.append(Asked(target, hidden, image))
    return asked


def translations(
    model: MedM2G,
    train: Sequence[Patient],
    test: Sequence[Patient],
    image_of: Mapping[str, str],
    draws: int,
    seed: int = 0,
) -> Iterator[Row]:
    """Of the first patients who have what it takes. PSNR has range 2 over all pixels; that of a mean of N
    honest draws is raised by what averaging N of them costs, 10 log10(1 + 1/N) (`averaged_psnr`)."""
    for frame, translation in model.translated():
        for asked in asked_of(frame, image_of):
            having = _having(test, frame, asked)[:MOST]
            if having:
                yield from _translated(model, translation, asked, having, draws, seed)
                yield from _without_a_network(model, frame, asked, _having(train, frame, asked), having)
                yield from _prompted(model, asked, having[:PROMPTED], draws, seed)


def _having(patients: Sequence[Patient], frame: Sequence[str], asked: Asked) -> list[Patient]:
    """Those who have the target, and something to make it of."""
    sources = [name for name in frame if name != asked.target and name not in asked.hidden]
    return [p for p in patients if p.has(asked.target) and any(map(p.has, sources))]


def _translated(
    model: MedM2G, translation: Translation, asked: Asked, having: list[Patient], draws: int, seed: int
) -> Iterator[Row]:
    """The regression, one draw, the mean of many."""
    target, task = asked.target, str(asked)
    real = images_of(having, model.task.modality(target))
    frame = [model.task.modality(name) for name in translation.draft.series]
    images, present = frame_of(having, frame, [target, *asked.hidden])
    weight = resamples([p.person for p in having], REPLICATES, seed)
    regression = translation.mean(images, target, present).clamp(-1, 1)
    drawn = _draws(translation, images, target, present, draws, seed)
    for method, x in (("regression", regression), ("one draw", drawn[:, 0])):
        yield measured(task, method, "PSNR, dB", mean(psnr(x, real), weight), having)
        yield measured(task, method, "SSIM", mean(ssim(x, real), weight), having)
        yield measured(task, method, "sharpness", sharpness(x, real).of(weight), having)
    samples = drawn.transpose(0, 1)
    averaged = mean(averaged_psnr(samples, real), weight)
    yield measured(task, f"mean of {draws}", "PSNR, dB, corrected", averaged, having)
    less = averaged - mean(psnr(regression, real), weight)
    yield measured(task, f"mean of {draws}", "corrected, minus regression, dB", less, having)
    spread = spread_over_skill(samples, real).of(weight)
    yield measured(task, f"{draws} draws", "spread over skill", spread, having)


def _draws(
    translation: Translation,
    images: Mapping[str, Tensor],
    target: str,
    present: Tensor,
    draws: int,
    seed: int,
) -> Tensor:
    """[n, draws, C, H, W] in [-1, 1], a few patients at a time."""
    parts = []
    some = torch.arange(len(present)).split(AT_ONCE)
    for rows in tqdm(some, desc=f"drawing {target}", leave=False, disable=None):
        own = {name: x[rows] for name, x in images.items()}
        how: dict[str, Any] = {"draws": draws, "key": philox_key(seed), "row_ids": rows}
        parts.append(translation.sample(own, target, present[rows], **how))
    return torch.cat(parts).clamp(-1, 1)


def _without_a_network(
    model: MedM2G, frame: Sequence[str], asked: Asked, train: list[Patient], having: list[Patient]
) -> Iterator[Row]:
    """The mean of the training images, the image of the training patient whose sources are nearest, and a
    linear map. A source that somebody lacks is its mean there."""
    modality = model.task.modality(asked.target)
    if len(train) < 3:
        return
    known, real = images_of(train, modality), images_of(having, modality)
    sources = [n for n in frame if n != asked.target and n not in asked.hidden]
    x = _filled(model, sources, train, having)
    gists = [torch.cat([model.detail(n).gist.encode(each[i]) for n, each in x.items()], 1) for i in range(2)]
    pixels = [torch.cat([each[i] for each in x.values()], 1) for i in range(2)]
    found = torch.from_numpy(nearest(*gists)[1])
    ridge = PrincipalRidge(pixels[1], known).mean(pixels[0]).clamp(-1, 1)
    weight = resamples([p.person for p in having], REPLICATES)
    for method, made in (
        ("ridge between principal components", ridge),
        ("nearest training patient", known[found]),
        ("mean training image", mean_image(known, len(having))),
    ):
        yield measured(str(asked), method, "PSNR, dB", mean(psnr(made, real), weight), having)


def _filled(
    model: MedM2G, sources: Sequence[str], train: list[Patient], having: list[Patient]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The images [n, C, H, W] of `having` and of `train`, of each source that anybody in training has; the
    training patients' mean for whoever lacks one."""
    modalities = [model.task.modality(name) for name in sources]
    (own, here), (theirs, there) = (frame_of(some, modalities) for some in (having, train))
    filled = {}
    for i, name in enumerate(sources):
        if name in theirs:
            usual = theirs[name][there[:, i]].mean(0)
            seen = own.get(name, usual.expand(len(having), *usual.shape))
            filled[name] = (
                seen.where(here[:, i, None, None, None], usual),
                theirs[name].where(there[:, i, None, None, None], usual),
            )
    return filled


def _prompted(model: MedM2G, asked: Asked, having: list[Patient], draws: int, seed: int) -> Iterator[Row]:
    """The same image by the latent diffusion of its gist: from the prompts of what is there, which no flow
    reads any image of (unguided), and with those images known to the flow (cross-guided)."""
    name = asked.target
    given = [without(p, [name, *asked.hidden]) for p in having]
    real = images_of(having, model.task.modality(name))
    weight = resamples([p.person for p in having], REPLICATES, seed)
    for method, read in (("prompts alone", False), ("prompts, cross-guided", True)):
        parts = [
            _from_prompts(model, name, given[start : start + AT_ONCE], start, read, draws, seed)
            for start in range(0, len(given), AT_ONCE)
        ]
        averaged = mean(averaged_psnr(torch.cat(parts, dim=1), real), weight)
        yield measured(str(asked), f"{method}, mean of {draws}", "PSNR, dB, corrected", averaged, having)


def _from_prompts(
    model: MedM2G, name: str, given: list[Patient], first: int, read: bool, draws: int, seed: int
) -> Tensor:
    """[draws, n, C, H, W] in [-1, 1]; the first patient's number is `first`."""
    h, m = (x.repeat_interleave(draws, 0) for x in model.prompts.embed(given, model.tokenizer))
    known = {
        n: model.gist(n).encode(encodable(given, model.task.modality(n))).repeat_interleave(draws, 0)
        for n in model.gists
        if read and all(p.has(n) for p in given)
    }
    how: dict[str, Any] = {"key": philox_key(seed), "row_ids": first * draws + torch.arange(len(h))}
    z = model.flows.sample([name], h, m, known=known, **how)[name]
    x = model.detail(name).sample(z, **how).clamp(-1, 1)
    return x.unflatten(0, (-1, draws)).transpose(0, 1)
