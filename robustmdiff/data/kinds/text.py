"""Texts: the text itself or its file in a table, token ids in a batch, words in an explanation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np

from robustmdiff.data.batch import A
from robustmdiff.data.kinds.kind import OPEN, PLAIN, Kind, Spans, Spec, Tokens, check_parts
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.tables.cells import Row, brief

IN_WORDS = ("Mn", "Mc", "Me", "Cf")  # marks, and what cannot be seen
WITHOUT_BLANKS = re.compile(  # Thai and Lao, Burmese, Khmer, Chinese and Japanese
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class Texts(NamedTuple, Generic[A]):
    """The texts of the n patients who have one, token ids end to end (an empty text keeps its
    special tokens, so present texts never have length 0)."""

    rows: A  # [n] int64, ascending
    input_ids: A  # [sum of lengths] int64
    lengths: A  # [n] int64


@dataclass(frozen=True)
class Word:
    """text[start:end] of a report, and what it added to p_c."""

    text: str
    start: int
    end: int
    attribution: float


class Text(Kind):
    """A str; "" is a text that says nothing."""

    media = PLAIN
    needs = ("tokenizers",)

    def check(self, modality: Modality, where: str) -> None:
        """A text has nothing of its own to declare, and may name any encoder."""

    def columns(self, modality: Modality) -> list[tuple[str, ...]]:
        return [(modality.name, f"{modality.name}_file")]

    def read(self, row: Row, modality: Modality, root: Path, cache: Path | None = None) -> str | None:
        column = f"{modality.name}_file"
        if column not in row.cells:
            return row.text(modality.name)
        if not row.cells[column]:
            return None
        try:
            return (root / row.cells[column]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise row.error(column, f"which cannot be read ({error}), expected a UTF-8 file") from error

    def pack(
        self, modality: Modality, rows: np.ndarray, patients: Sequence[Patient], tokens: Tokens
    ) -> Texts[np.ndarray]:
        ids = [_ids(patient, modality, tokens) for patient in patients]
        return Texts(
            rows,
            np.array([id for text in ids for id in text], dtype=np.int64),
            np.array([len(text) for text in ids], dtype=np.int64),
        )

    def specs(self, modality: Modality) -> dict[str, Spec]:
        int64 = np.dtype(np.int64)
        return {"input_ids": Spec(int64, (OPEN, OPEN)), "lengths": Spec(int64, (OPEN,), blank=1)}

    def arrays(self, packed: Texts[np.ndarray]) -> dict[str, np.ndarray]:
        lengths = packed.lengths
        ids = np.zeros((len(lengths), int(lengths.max())), dtype=np.int64)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = packed.input_ids
        return {"input_ids": ids, "lengths": lengths}

    def check_arrays(
        self, modality: Modality, arrays: dict[str, np.ndarray], entries: int, longest: int
    ) -> None:
        ids, lengths, name = arrays["input_ids"], arrays["lengths"], modality.name
        width = ids.shape[1]
        if not 1 <= width <= longest or lengths.min() < 1 or lengths.max() > width:
            raise DataError(f"{name}.lengths is not of 1 to input_ids' {width}, of at most {longest}")
        if ids.min() < 0 or ids.max() >= entries:
            raise DataError(f"{name}.input_ids has words that there are not, expected 0 to {entries - 1}")

    def expected(self, modality: Modality) -> str:
        return "a text"

    def told(self, modality: Modality, observed: str, parts: Any, spans: Spans) -> tuple[Word, ...]:
        """Tokens [L] merged into words: neighbours without a gap whose characters belong together, and
        tokens of one and the same character."""
        check_parts(modality, parts, (len(spans),))
        found: list[Word] = []
        for (start, end), value in zip(spans, parts.tolist(), strict=True):
            if start == end:  # a special token; the path does not move it
                continue
            while unicodedata.category(observed[end : end + 1] or "?") in IN_WORDS:
                end += 1
            last = found[-1] if found else None
            if last and (
                start < last.end or (start == last.end and _joined(observed[start - 1], observed[start]))
            ):
                found[-1] = Word(observed[last.start : end], last.start, end, last.attribution + value)
            else:
                found.append(Word(observed[start:end], start, end, value))
        return tuple(found)


def _ids(patient: Patient, modality: Modality, tokens: Tokens) -> list[int]:
    text: Any = patient.modalities[modality.name]
    where = f"{patient}, modality {modality.name!r}"
    if not isinstance(text, str):
        raise DataError(
            f"{where}: is {brief(text)}, expected str (None if there is no text, '' if it is empty)"
        )
    if tokens is None:
        raise DataError(f"{where}: Collator has tokenizer None, expected one (train_tokenizer makes it)")
    ids = tokens(text)
    if not ids:
        raise DataError(
            f"{where}: {text[:40]!r} gave no token, expected a tokenizer that adds [CLS] and [SEP]"
        )
    return ids


def _joined(left: str, right: str) -> bool:
    """Whether a word goes on between two characters: with a mark (an accent, a vowel sign), or between
    letters and digits of scripts that set blanks between words."""
    if unicodedata.category(right) in IN_WORDS:
        return True
    before = left.isalnum() or unicodedata.category(left) in IN_WORDS
    return before and right.isalnum() and not WITHOUT_BLANKS.search(left + right)
