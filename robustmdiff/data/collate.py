"""From patients to one batch, checking every value on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustmdiff.data.batch import Batch, Input
from robustmdiff.data.kinds import KINDS
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import tokenize
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import unknown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT_TEXTS = 16_384


class Collator:
    """Packs patients of `task` into a `Batch` of arrays; the order of patients is kept.

    tokenizer   needed as soon as a patient has a text; longer texts are cut to max_tokens,
                special tokens included.

    Raises DataError for anything that is not what the task declares, naming the patient, the
    source, the modality, the value and what was expected. A patient with nothing at all is
    fine (presence all False), and so is a batch in which nobody has a modality (n = 0), or
    one of no patients (B = 0). Images that are files are decoded here.
    """

    def __init__(self, task: Task, tokenizer: Tokenizer | None = None, max_tokens: int = 128) -> None:
        if max_tokens < 2:
            raise Refusal(f"Collator: max_tokens is {max_tokens}, expected at least 2")
        self.task = task
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._ids: dict[str, list[int]] = {}  # token ids by text: every epoch asks for the same ones

    def __call__(self, patients: Sequence[Patient]) -> Batch[np.ndarray]:
        names = self.task.modality_names
        for patient in patients:
            for name in patient.modalities:
                if name not in names:
                    raise DataError(f"{patient}: {unknown('modality', name, names)}")

        presence = np.zeros((len(patients), len(names)), dtype=bool)
        inputs: dict[str, Input[np.ndarray]] = {}
        tokens = self._tokens if self.tokenizer is not None else None
        for m, modality in enumerate(self.task.modalities):
            presence[:, m] = [patient.has(modality.name) for patient in patients]
            rows = np.flatnonzero(presence[:, m])
            having = [patients[b] for b in rows.tolist()]
            inputs[modality.name] = KINDS[modality.kind].pack(modality, rows, having, tokens)

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

    def spans(self, text: str) -> list[tuple[int, int]]:
        """For explanations, the characters of a text behind each of its tokens; (0, 0) for special ones. The
        ids are kept, so that packing the text afterwards does not tokenize it again."""
        if self.tokenizer is None:
            raise DataError("Collator: tokenizer is None, expected one (train_tokenizer makes it)")
        ids, spans = tokenize(self.tokenizer, text, self.max_tokens)
        if len(self._ids) < KEPT_TEXTS:
            self._ids[text] = ids
        return spans

    def _tokens(self, text: str) -> list[int]:
        ids = self._ids.get(text)
        if ids is None:
            assert self.tokenizer is not None
            ids, _ = tokenize(self.tokenizer, text, self.max_tokens)
            if len(self._ids) < KEPT_TEXTS:
                self._ids[text] = ids
        return ids

    def _labels(self, patients: Sequence[Patient]) -> tuple[np.ndarray, np.ndarray]:
        label, known = _flags(patients, "label", self.task.classes)
        labels, holds = self.task.labels, label > 0.5
        impossible = labels.impossible(holds, known)
        if impossible.any():
            patient = patients[int(impossible.argmax())]
            true = [name for name, value in patient.labels.items() if value]
            all_hold = f"labels {true} all hold, expected one of them"
            problem = all_hold if true else "every label is False, expected one that holds"
            raise DataError(f"{patient}: {problem} (single label)")
        return label, labels.implied(holds, known)


def _flags(patients: Sequence[Patient], what: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of `names` holds, float32 [B, len(names)], and whether that is known, bool."""
    columns = {name: c for c, name in enumerate(names)}
    holds = [[0.0] * len(names) for _ in patients]
    known = [[False] * len(names) for _ in patients]
    for b, patient in enumerate(patients):
        for name, value in (patient.labels if what == "label" else patient.findings).items():
            if name not in columns:
                raise DataError(f"{patient}: {unknown(what, name, columns)}")
            if value not in (True, False):
                raise DataError(f"{patient}, {what} {name!r}: is {value!r}, expected True or False")
            holds[b][columns[name]] = float(value)
            known[b][columns[name]] = True
    size = (len(patients), len(names))
    return np.array(holds, dtype=np.float32).reshape(size), np.array(known, dtype=bool).reshape(size)
