"""What is counted or gathered from the patients of a study before a model sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient, StoredImage
from robustmdiff.data.task import Task
from robustmdiff.labels import Labels

CHUNK = 256  # patients at a time


def prevalence(patients: Sequence[Patient], classes: Sequence[str], labels: Labels) -> tuple[float, ...]:
    """The share of each class among the patients of whom it is known (`Labels.prevalence`): of those who have
    one where classes exclude each other, so that the shares sum to 1; even odds where nothing is known."""
    holds = [sum(bool(patient.labels.get(name)) for patient in patients) for name in classes]
    known = [sum(name in patient.labels for patient in patients) for name in classes]
    return labels.prevalence(holds, known)


def texts_of(patients: Sequence[Patient], task: Task) -> list[str]:
    """All texts of these patients, to train a tokenizer on."""
    names = [modality.name for modality in task.of_kind("text")]
    texts = (patient.modalities.get(name) for patient in patients for name in names)
    return [text for text in texts if isinstance(text, str)]


def readable(patients: Sequence[Patient], bad: BadRows | None = None, quiet: bool = True) -> list[Patient]:
    """The patients whose images can be decoded. Every stored image is decoded once, on all cores, and kept
    nowhere but in its cache, where it has one. Raises DataError with a sentence for each that cannot be,
    unless `bad` is to skip them."""
    from tqdm.auto import tqdm

    def wrong(patient: Patient) -> DataError | None:
        try:
            for observed in patient.modalities.values():
                if isinstance(observed, StoredImage):
                    observed.pixels()
        except DataError as error:
            return error
        return None

    bad = bad or BadRows()
    found: list[Patient] = []
    starts = range(0, len(patients), CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(starts, desc="reading images", disable=True if quiet else None, leave=False):
            few = patients[start : start + CHUNK]
            for patient, error in zip(few, pool.map(wrong, few), strict=True):
                with bad.row():
                    if error is not None:
                        raise error
                    found.append(patient)
    bad.check()
    return found
