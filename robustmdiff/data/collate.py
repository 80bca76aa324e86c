"""From patients to one batch, checking every value on the way in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustmdiff.data.batch import Batch, Images, Input, Panels, Texts
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.task import Field, Modality, Task
from robustmdiff.data.tokenizer import tokenize
from robustmdiff.refusal import Refusal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT_TEXTS = 16_384


class Collator:
    """Packs patients of `task` into a `Batch`; the order of patients is kept.

    tokenizer   needed as soon as a patient has a text; longer texts are cut to max_tokens,
                special tokens included.

    Raises DataError for anything that is not what the task declares, naming the patient, the
    source, the modality, the value and what was expected. A patient with nothing at all is
    fine (presence all False), and so is a batch in which nobody has a modality (n = 0), or
    one of no patients (B = 0).
    """

    def __init__(self, task: Task, tokenizer: Tokenizer | None = None, max_tokens: int = 128) -> None:
        if max_tokens < 2:
            raise Refusal(f"Collator: max_tokens is {max_tokens}, expected at least 2")
        self.task = task
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._ids: dict[str, list[int]] = {}  # token ids by text: every epoch asks for the same ones
        self._columns = {
            modality.name: {field.name: j for j, field in enumerate(modality.fields)}
            for modality in task.modalities
        }

    def __call__(self, patients: Sequence[Patient]) -> Batch:
        for patient in patients:
            for name in patient.modalities:
                if name not in self._columns:
                    raise DataError(f"{_who(patient)}: {_unknown('modality', name, self._columns)}")

        names = self.task.modality_names
        presence = torch.zeros(len(patients), len(names), dtype=torch.bool)
        inputs: dict[str, Input] = {}
        for m, modality in enumerate(self.task.modalities):
            having = [b for b, patient in enumerate(patients) if patient.has(modality.name)]
            presence[having, m] = True
            rows = torch.tensor(having, dtype=torch.int64)
            inputs[modality.name] = self._pack(modality, rows, [patients[b] for b in having])

        label, label_known = self._labels(patients)
        findings, findings_known = _flags(patients, "finding", self.task.findings)
        return Batch(
            ids=tuple(patient.id for patient in patients),
            presence=presence,
            inputs=inputs,
            label=label,
            label_known=label_known,
            findings=findings,
            findings_known=findings_known,
        )

    def _pack(self, modality: Modality, rows: Tensor, patients: list[Patient]) -> Input:
        if modality.kind == "image":
            return Images(rows, _images(patients, modality))
        if modality.kind == "text":
            ids = [self._text(patient, modality) for patient in patients]
            return Texts(
                rows,
                torch.tensor([id for text in ids for id in text], dtype=torch.int64),
                torch.tensor([len(text) for text in ids], dtype=torch.int64),
            )
        # Cells go through lists: writing a tensor cell by cell takes ten times as long.
        value = [[0.0] * len(modality.fields) for _ in patients]
        present = [[False] * len(modality.fields) for _ in patients]
        for i, patient in enumerate(patients):
            for j, cell in self._cells(patient, modality):
                value[i][j] = cell
                present[i][j] = True
        size = (len(patients), len(modality.fields))
        return Panels(
            rows,
            torch.tensor(value, dtype=torch.float32).reshape(size),
            torch.tensor(present, dtype=torch.bool).reshape(size),
        )

    def _text(self, patient: Patient, modality: Modality) -> list[int]:
        text: Any = patient.modalities[modality.name]
        where = f"{_who(patient)}, modality {modality.name!r}"
        if not isinstance(text, str):
            raise DataError(
                f"{where}: is {_brief(text)}, expected str (None if there is no text, '' if it is empty)"
            )
        if self.tokenizer is None:
            raise DataError(f"{where}: Collator has tokenizer None, expected one (train_tokenizer makes it)")
        ids = self._ids.get(text)
        if ids is None:
            ids, _ = tokenize(self.tokenizer, text, self.max_tokens)
            if len(self._ids) < KEPT_TEXTS:
                self._ids[text] = ids
        if not ids:
            raise DataError(
                f"{where}: {text[:40]!r} gave no token, expected a tokenizer that adds [CLS] and [SEP]"
            )
        return ids

    def _cells(self, patient: Patient, modality: Modality) -> Iterable[tuple[int, float]]:
        values: Any = patient.modalities[modality.name]
        where = f"{_who(patient)}, modality {modality.name!r}"
        if not isinstance(values, Mapping):
            raise DataError(f"{where}: is {_brief(values)}, expected a mapping from field name to value")
        columns = self._columns[modality.name]
        for name, value in values.items():
            if name not in columns:
                raise DataError(f"{where}: {_unknown('field', name, columns)}")
            j = columns[name]
            yield j, _cell(value, modality.fields[j], where)

    def _labels(self, patients: Sequence[Patient]) -> tuple[Tensor, Tensor]:
        label, known = _flags(patients, "label", self.task.classes)
        if self.task.multilabel:
            return label, known
        for b, patient in enumerate(patients):
            true = [name for name, holds in patient.labels.items() if holds]
            if len(true) > 1:
                raise DataError(
                    f"{_who(patient)}: labels {true} all hold, expected one of them (single label)"
                )
            if true:  # the others are excluded by it
                known[b] = True
            elif known[b].all():
                raise DataError(
                    f"{_who(patient)}: every label is False, expected one that holds (single label)"
                )
        return label, known


def _images(patients: list[Patient], modality: Modality) -> Tensor:
    expected = f"expected float32 {list(_shape(modality))}"
    images: list[Tensor] = []
    for patient in patients:
        image: Any = patient.modalities[modality.name]
        where = f"{_who(patient)}, modality {modality.name!r}"
        if not isinstance(image, Tensor):
            raise DataError(f"{where}: is {_brief(image)}, {expected} torch.Tensor")
        if image.dtype != torch.float32 or image.shape != _shape(modality):
            dtype = str(image.dtype).removeprefix("torch.")
            raise DataError(f"{where}: is {dtype} {list(image.shape)}, {expected}")
        images.append(image)
    if not images:
        return torch.empty(0, *_shape(modality))
    pixels = torch.stack(images)
    if not pixels.sum().isfinite():  # one NaN or infinity spoils the sum; so may an overflow
        for patient, image in zip(patients, images, strict=True):
            bad = (~image.isfinite()).nonzero().tolist()
            if bad:
                raise DataError(
                    f"{_who(patient)}, modality {modality.name!r}: {len(bad)} values are NaN or infinite, "
                    f"the first {image[tuple(bad[0])].item()} at {bad[0]}, expected finite numbers"
                )
    return pixels


def _cell(value: Any, field: Field, where: str) -> float:
    """The number that stands for `value`: itself, or the index of its category."""
    if field.categories:
        if value in field.categories:
            return float(field.categories.index(value))
        raise DataError(
            f"{where}, field {field.name!r}: is {value!r}, expected one of {', '.join(field.categories)}"
        )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DataError(f"{where}, field {field.name!r}: is {_brief(value)}, expected a number")
    number = float(value)
    if not math.isfinite(number) or abs(number) > torch.finfo(torch.float32).max:
        raise DataError(
            f"{where}, field {field.name!r}: is {number}, expected a finite float32 "
            "(leave the field out if it was not measured)"
        )
    return number


def _flags(patients: Sequence[Patient], what: str, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Whether each of `names` holds, float32 [B, len(names)], and whether that is known, bool."""
    columns = {name: c for c, name in enumerate(names)}
    holds = [[0.0] * len(names) for _ in patients]
    known = [[False] * len(names) for _ in patients]
    for b, patient in enumerate(patients):
        for name, value in (patient.labels if what == "label" else patient.findings).items():
            if name not in columns:
                raise DataError(f"{_who(patient)}: {_unknown(what, name, columns)}")
            if value not in (True, False):
                raise DataError(f"{_who(patient)}, {what} {name!r}: is {value!r}, expected True or False")
            holds[b][columns[name]] = float(value)
            known[b][columns[name]] = True
    size = (len(patients), len(names))
    return torch.tensor(holds, dtype=torch.float32).reshape(size), torch.tensor(known).bool().reshape(size)


def _shape(modality: Modality) -> tuple[int, int, int]:
    assert modality.shape is not None  # Modality checks it
    return modality.shape


def _who(patient: Patient) -> str:
    return f"patient {patient.id!r}" + (f" ({patient.source})" if patient.source else "")


def _unknown(what: str, name: object, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    expected = f"expected one of {', '.join(known)}" if known else f"the task declares no {what}"
    return f"unknown {what} {name!r}{hint}, {expected}"


def _brief(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else ""
    return f"{type(value).__name__} {text[:40]}".rstrip()
