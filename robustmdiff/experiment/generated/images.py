"""Images made of a text alone: do they show what it states, are they like real ones, and nobody's?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from robustmdiff.evaluation.generated.extractor import of_judge
from robustmdiff.evaluation.generated.image_sets import (
    frechet_distance,
    kernel_distance,
    memorisation,
    nearest,
)
from robustmdiff.evaluation.generated.images import sharpness
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.experiment.generated.cohort import Judged, having_only
from robustmdiff.experiment.generated.rows import Row, alone, measured
from robustmdiff.generation.latents.text import TextLatent
from robustmdiff.refusal import Refusal

GUIDANCE = (1.0, 3.0)


def images_from_text(judged: Judged) -> Iterator[Row]:
    """AUROC of the findings that the report states, on the image made from it; KID, FID and copies of
    training images, beside those of real ones."""
    task = f"text -> {judged.name}"
    yield judged.agreement(task, "real pairs", judged.real, judged.asked)
    yield judged.agreement(task, "image of the nearest report", _retrieved(judged), judged.asked)
    for guidance in GUIDANCE:
        x = judged.generated(having_only(judged.patients, "text"), guidance)
        method = f"guidance {guidance:g}"
        yield judged.agreement(task, method, x, judged.asked)
        rough = sharpness(x, judged.real).of(judged.weight)
        yield measured(task, method, "sharpness", rough, judged.patients)
        gist = judged.model.detail(judged.name).gist
        copied = memorisation(x, judged.real, judged.on_trained, gist.encode).copied
        measure = "share nearer to a training image than .99 of new ones"
        yield Row(task, method, measure, alone(copied), len(x))
        yield from _as_a_set(judged, task, method, x)
    yield from _as_a_set(judged, task, "halves of the real images", None)


def _retrieved(judged: Judged) -> Tensor:
    """Of the training patient whose report is most like the one that is asked for."""
    gist = cast(TextLatent, judged.model.gist("text"))
    cohorts = judged.test, judged.train
    z, bank = (gist.encode([str(p.modalities["text"]) for p in cohort.patients]) for cohort in cohorts)
    return judged.on_trained[torch.from_numpy(nearest(z, bank)[1])]


def _as_a_set(judged: Judged, task: str, method: str, x: Tensor | None) -> Iterator[Row]:
    """KID and FID of images x; without, those of halves of the real ones, between two standard deviations."""
    extractor = of_judge(judged.judge)
    for measure, distance in (("KID", kernel_distance), ("FID", frechet_distance)):
        try:
            found = distance(judged.real if x is None else x, judged.real, extractor, judged.people)
        except Refusal:  # of too few images
            continue
        value, sd = found.halves, found.halves_sd
        halves = Interval(value, value - 2 * sd, value + 2 * sd)
        measure = f"{measure}, own judge's features"
        yield Row(task, method, measure, halves if x is None else alone(found.value), found.generated)
