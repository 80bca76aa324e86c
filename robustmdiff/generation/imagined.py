"""What a patient's missing modalities might look like, as a page that is not ours to write shows it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robustmdiff.data.modality import Modality, channel_names
from robustmdiff.data.patient import Patient
from robustmdiff.data.pictures.write import SYNTHETIC, to_png
from robustmdiff.data.series import split_channels
from robustmdiff.data.task import Task
from robustmdiff.generation.medm2g import Made, MedM2G
from robustmdiff.generation.multi_flow import STEPS
from robustmdiff.refusal import Refusal

SAME = ("kind", "shape", "window", "bits", "channels", "fields")  # what an observation has to have in common


class Imaginer:
    """A generator, asked by whoever knows patients of `task`: that of a diagnosis model.

    model       its modalities are those of the task, or channels of its images ("mri_T1w" of "mri"); it may
                lack some, which it does not read then
    provenance  what is the same for all, in JSON's types: the generator's name and SHA-256

    Raises Refusal for a modality that is not the task's, or is declared otherwise there. Not for several
    threads at a time.
    """

    def __init__(self, model: MedM2G, task: Task, provenance: Mapping[str, str]) -> None:
        self.model, self.task, self.provenance = model, task, provenance
        self.parts = parts_of(task, model.task)
        self.makes = [name for name, parts in self.parts.items() if {*parts} <= {*model.gists}]

    def __call__(
        self, patient: Patient, to: Sequence[str], draws: int, guidance: float, seed: int
    ) -> dict[str, Any]:
        """So many draws of the modalities `to`, some of `makes`, from all others that the patient has, in
        JSON's types.

        {"synthetic": True,
         "how": by modality, in words,
         "images": by modality its draws, each its channels, {"name", "picture"}: PNGs as data URIs, which say
                   in their own text that they are synthetic,
         "texts": by modality its draws,
         "unread": a sentence for each text that is not read to its end, or in which no word is known,
         "provenance": that, and "given", "draws", "guidance", "steps", "seed"}
        """
        asked = self._read(patient, to)
        names = [part for name in to for part in self.parts[name]]
        how: dict[str, Any] = {"draws": draws, "guidance": guidance, "steps": STEPS, "seed": seed}
        made = self.model.generate([asked], names, **how)[0]
        told = {name: "; ".join(dict.fromkeys(made.how[part] for part in self.parts[name])) for name in to}
        texts = [name for name in to if self.task.modality(name).kind == "text"]
        drawn = any(not self.model.sources(asked, name) for name in names)  # and not translated
        return {
            SYNTHETIC: True,
            "how": told,
            "images": {
                name: list(self._pictures(name, made, f"{told[name]}, seed {seed}"))
                for name in to
                if name not in texts
            },
            "texts": {name: made.made[name] for name in texts},
            "unread": list(self.model.unread(asked)) if drawn else [],
            "provenance": {
                **self.provenance,
                "given": [name for name, parts in self.parts.items() if {*parts} & {*made.given}],
                **how,
            },
        }

    def _read(self, patient: Patient, to: Sequence[str]) -> Patient:
        """The patient as the generator knows one, without what is asked for."""
        known = {n: v for n, v in patient.modalities.items() if n in self.parts and n not in to}
        patients: Sequence[Patient] = [replace(patient, modalities=known)]
        task = self.task
        for name, parts in self.parts.items():
            if parts != (name,) and patient.has(name):
                task, patients = split_channels(task, patients, name)
        return patients[0]

    def _pictures(self, name: str, made: Made, says: str) -> Iterator[list[dict[str, str]]]:
        """Of each draw its channels."""
        modality = self.task.modality(name)
        draws = zip(*(made.made[part] for part in self.parts[name]), strict=True)
        for number, parts in enumerate(draws, start=1):
            pixels = np.concatenate(parts)  # [C, H, W]
            comment = {"Comment": f"{says}, draw {number}"}
            yield [
                {"name": called, "picture": _data_uri(to_png(pixels[i : i + 1], modality, comment))}
                for i, called in enumerate(channel_names(modality.channels, len(pixels)))
            ]


def parts_of(task: Task, known: Task) -> dict[str, tuple[str, ...]]:
    """By modality of the task what it is in the generator's: itself, or the channels of an image. Raises
    Refusal, see `Imaginer`."""
    found: dict[str, tuple[str, ...]] = {}
    for modality in task.modalities:
        parts = [modality] if modality.name in known.modality_names else _channels(task, modality)
        if {part.name for part in parts} <= {*known.modality_names}:
            for part in parts:
                _check_same(known.modality(part.name), part)
            found[modality.name] = tuple(part.name for part in parts)
    strange = {*known.modality_names} - {part for parts in found.values() for part in parts}
    if strange:
        raise Refusal(
            f"the generator knows {', '.join(sorted(strange))}, expected this task's modalities or channels "
            f"of its images: {', '.join(task.modality_names)}"
        )
    return found


def _channels(task: Task, modality: Modality) -> list[Modality]:
    """What a generator may have made of an image of several channels; else the modality itself."""
    if modality.kind != "image" or modality.shape is None or modality.shape[0] < 2:
        return [modality]
    split, _ = split_channels(replace(task, modalities=(modality,)), [], modality.name)
    taken = {*split.modality_names} & {*task.modality_names}
    return [modality] if taken else list(split.modalities)


def _check_same(known: Modality, modality: Modality) -> None:
    for what in SAME:
        a, b = getattr(known, what), getattr(modality, what)
        if a != b:
            raise Refusal(f"the generator's {known.name!r}: {what} is {a}, expected {b}, as this task has it")


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
