"""What is asked of each batch of patients, wherever it is computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from robustmdiff.answer import Answer
from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.predictor import Predictor

COLUMNS: dict[str, type] = {
    "patient": str,
    "class": str,
    "probability": float,
    "low": float,
    "high": float,
    "in_set": bool,
    "unlike_training": bool,
    "missing": str,
    "nothing_known": bool,
    "answer": str,
}


class Answered(NamedTuple):
    """What came of a batch.

    rows      one a patient and class, in the order of the patients (`rows_of`)
    left_out  a sentence for each patient whose files cannot be read, and who has no row
    warned    the warnings on the way, each once
    """

    rows: list[dict[str, Any]]
    left_out: list[str]
    warned: list[str]


class Answering:
    """Answers a batch. It can be pickled, and is what each process holds.

    It computes with one thread: torch splits sums among threads, so that another number of them could give
    other last digits.
    """

    def __init__(self, predictor: Predictor, draws: int | None = None, seed: int = 0) -> None:
        self.predictor, self.draws, self.seed = predictor, draws, seed

    def __call__(self, patients: Sequence[Patient]) -> Answered:
        bad = BadRows(skip=True)
        with warnings.catch_warnings(record=True) as caught, one_thread():
            warnings.simplefilter("always")
            try:
                answers = self._diagnose(patients)
            except DataError:  # of whom?
                answers = self._diagnose(self._readable(patients, bad))
        warned = dict.fromkeys(str(warning.message) for warning in caught)
        return Answered([row for answer in answers for row in rows_of(answer)], bad.problems, list(warned))

    def _diagnose(self, patients: Sequence[Patient]) -> list[Answer]:
        return self.predictor.diagnose(patients, draws=self.draws, seed=self.seed)

    def _readable(self, patients: Sequence[Patient], bad: BadRows) -> list[Patient]:
        found = []
        for patient in patients:
            with bad.row():
                self.predictor.run.collator([patient])
                found.append(patient)
        return found


def rows_of(answer: Answer) -> list[dict[str, Any]]:
    """The answer as rows of `COLUMNS`, one a class; without draws `low` and `high` are None."""
    ends = {name: (round(low, 6), round(high, 6)) for name, (low, high) in answer.interval.items()}
    return [
        {
            "patient": answer.patient,
            "class": name,
            "probability": round(p, 6),
            "low": ends[name][0] if ends else None,
            "high": ends[name][1] if ends else None,
            "in_set": name in answer.prediction,
            "unlike_training": bool(answer.unlike_training),
            "missing": " ".join(answer.missing),
            "nothing_known": answer.nothing_known,
            "answer": answer.answer,
        }
        for name, p in answer.probability.items()
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
