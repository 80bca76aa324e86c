"""Texts: the text itself or its file in a table, token ids in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.data.batch import Texts
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.tables.cells import Row, brief
from robustmdiff.data.task import Modality


def columns(modality: Modality) -> list[tuple[str, ...]]:
    return [(modality.name, f"{modality.name}_file")]


def read(row: Row, modality: Modality, root: Path, cache: Path | None = None) -> str | None:
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
    modality: Modality,
    rows: np.ndarray,
    patients: Sequence[Patient],
    tokens: Callable[[str], list[int]] | None,
) -> Texts[np.ndarray]:
    ids = [_ids(patient, modality, tokens) for patient in patients]
    return Texts(
        rows,
        np.array([id for text in ids for id in text], dtype=np.int64),
        np.array([len(text) for text in ids], dtype=np.int64),
    )


def _ids(patient: Patient, modality: Modality, tokens: Callable[[str], list[int]] | None) -> list[int]:
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
