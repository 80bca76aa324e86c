"""Pictures of what a generator makes, beside what is real: one a task, for people to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.evaluation.contact_sheet import contact_sheet
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.generation.observed import images_of

PATIENTS, DRAWS = 5, 8


def draw_sheets(model: MedM2G, patients: Sequence[Patient], folder: Path) -> list[Path]:
    """Each image of a frame from the others, and each image from the text, of the first patients who have all
    that it takes. Returns the PNG files; of several channels the first is shown."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for target, given in _tasks(model):
        some = [p for p in patients if all(p.has(name) for name in (target, *given))][:PATIENTS]
        if not some:
            continue
        modality = model.task.modality(target)
        shown = {n: _first(images_of(some, model.task.modality(n))) for n in given if n in model.grids}
        alone = [replace(p, modalities={name: p.modalities[name] for name in given}) for p in some]
        made = model.generate(alone, [target], draws=DRAWS)
        samples = [_first(_pixels(modality, [one.made[target][d] for one in made])) for d in range(DRAWS)]
        path = folder / f"{'-'.join(given)}-to-{target}.png"
        contact_sheet(
            path,
            title=f"{', '.join(given)} to {target}",
            patients=[p.id for p in some],
            given=shown,
            real=_first(images_of(some, modality)),
            samples=torch.stack(samples),
        )
        drawn.append(path)
    return drawn


def _tasks(model: MedM2G) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(what is made, what of)"""
    for frame in model.frames:
        for target in frame:
            yield target, tuple(name for name in frame if name != target)
    for text in (name for name in model.gists if name not in model.grids):
        for target in model.grids:
            yield target, (text,)


def _pixels(modality: Modality, images: Sequence[Observation]) -> Tensor:
    """[n, C, H, W] in [-1, 1]."""
    return images_of([Patient(str(i), {modality.name: x}) for i, x in enumerate(images)], modality)


def _first(x: Tensor) -> Tensor:
    return x[:, 0]
