"""An image of several channels as images of one channel each: every contrast, level or view a modality."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Observation, Patient, StoredImage
from robustmdiff.data.task import Task
from robustmdiff.refusal import Refusal


def split_channels(task: Task, patients: Sequence[Patient], name: str) -> tuple[Task, Sequence[Patient]]:
    """The task and patients with the image modality `name` replaced, in its place, by one of shape
    (1, height, width) for each of its channels.

    A part is called after its channel ("mri_T1w"), or by number from 1 where the channels have no names
    that differ in a file's name. It keeps the window, and has an equal part of the cost: whoever asks for
    all of them pays for the whole. A patient has all parts or none. Patients are mapped when they are asked
    for, and a `StoredImage` stays one: no pixel is read here.

    Raises Refusal for a modality that is not in the task, no image, or of one channel.
    """
    if name not in task.modality_names:
        raise Refusal(f"name is {name!r}, expected one of {', '.join(task.modality_names)}")
    whole = task.modality(name)
    if whole.kind != "image" or whole.shape is None or whole.shape[0] < 2:
        what = f"is of kind {whole.kind!r}" if whole.kind != "image" else "has one channel"
        raise Refusal(f"name is {name!r}, which {what}, expected an image of several channels")
    parts = _parts(whole)
    modalities = [part for m in task.modalities for part in (parts if m is whole else (m,))]
    return replace(task, modalities=tuple(modalities)), _SplitPatients(patients, whole, parts)


def _parts(whole: Modality) -> tuple[Modality, ...]:
    assert whole.shape is not None  # it has just been looked at
    count, height, width = whole.shape
    plain = [re.sub(r"[^\w-]+", "_", channel).strip("_") for channel in whole.channels]
    if len({name.casefold() for name in plain if name}) < count:
        plain = [str(number) for number in range(1, count + 1)]
    return tuple(
        replace(
            whole,
            name=f"{whole.name}_{called}",
            shape=(1, height, width),
            channels=whole.channels[i : i + 1],
            cost=whole.cost / count,
        )
        for i, called in enumerate(plain)
    )


@dataclass(frozen=True, slots=True)
class Channel:
    """Channel `number` of a stored image of `count`, which is read whole each time it is asked for."""

    image: StoredImage
    number: int
    count: int
    where: str

    def pixels(self) -> np.ndarray:
        return _channel(self.image.pixels(), self.number, self.count, self.where)


class _SplitPatients(Sequence[Patient]):
    def __init__(self, patients: Sequence[Patient], whole: Modality, parts: tuple[Modality, ...]) -> None:
        self._patients, self._whole, self._parts = patients, whole, parts

    def __len__(self) -> int:
        return len(self._patients)

    @overload
    def __getitem__(self, i: int) -> Patient: ...
    @overload
    def __getitem__(self, i: slice) -> list[Patient]: ...
    def __getitem__(self, i: int | slice) -> Patient | list[Patient]:
        if isinstance(i, slice):
            return [self._split(patient) for patient in self._patients[i]]
        return self._split(self._patients[i])

    def __iter__(self) -> Iterator[Patient]:
        return map(self._split, self._patients)

    def _split(self, patient: Patient) -> Patient:
        observed: Any = patient.modalities.get(self._whole.name)
        count = len(self._parts)
        where = f"{patient}, modality {self._whole.name!r}"
        split: dict[str, Observation | None] = {
            name: seen for name, seen in patient.modalities.items() if name != self._whole.name
        }
        for number, part in enumerate(self._parts):
            if observed is None:
                split[part.name] = None
            elif isinstance(observed, StoredImage):
                split[part.name] = Channel(observed, number, count, where)
            else:
                split[part.name] = _channel(observed, number, count, where)
        return replace(patient, modalities=split)


def _channel(pixels: Any, number: int, count: int, where: str) -> Any:
    """[1, height, width], a view of the pixels [count, height, width]."""
    shape = np.shape(pixels)
    if len(shape) != 3 or shape[0] != count:
        raise DataError(f"{where}: is {list(shape)}, expected {count} channels, height and width")
    return pixels[number : number + 1]
