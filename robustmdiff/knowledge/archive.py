"""Concept tables on disk: one .npz with the arrays, and the strings as JSON inside it."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.knowledge.lines import OntologyError
from robustmdiff.knowledge.sparse import SparseTable
from robustmdiff.whole import write_whole

FORMAT = 1
STRINGS = ("id", "name", "definition", "kind", "relations", "synonyms", "xrefs")
ARRAYS = ("prevalence", "source", "target", "relation")


def save_concepts(concepts: ConceptTable, path: str | Path) -> None:
    """Write `concepts` to `path` whole or not at all; an older file there stays until it is replaced.

    Frequencies are stored sparsely. Nothing is pickled. Raises OSError where the disk is full.
    """
    strings = {"format": FORMAT} | {name: getattr(concepts, name) for name in STRINGS}
    arrays = {name: getattr(concepts, name) for name in ARRAYS} | {
        "frequency_shape": np.array(concepts.frequency.shape, np.int64),
        "frequency_row": concepts.frequency.row,
        "frequency_column": concepts.frequency.column,
        "frequency_value": concepts.frequency.value,
        "json": np.frombuffer(json.dumps(strings).encode(), np.uint8),
    }
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    write_whole(Path(path), file.getvalue(), sync=True)


def read_concepts(path: str | Path) -> ConceptTable:
    """The table that `save_concepts` wrote. Raises OntologyError for a damaged or other file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            strings = json.loads(stored["json"].tobytes())
            if strings["format"] != FORMAT:
                raise OntologyError(path, None, f"format {strings['format']}, this version reads {FORMAT}")
            arrays = {name: stored[name] for name in ARRAYS}
            diseases, findings = stored["frequency_shape"].tolist()
            at = stored["frequency_row"], stored["frequency_column"]
            frequency = SparseTable.of((diseases, findings), *at, stored["frequency_value"])
        return ConceptTable(
            id=tuple(strings["id"]),
            name=tuple(strings["name"]),
            definition=tuple(strings["definition"]),
            kind=tuple(strings["kind"]),
            relations=tuple(strings["relations"]),
            synonyms=tuple(map(tuple, strings["synonyms"])),
            xrefs=tuple(map(tuple, strings["xrefs"])),
            frequency=frequency,
            **arrays,
        ).check()
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, OntologyError):
            raise
        raise OntologyError(path, None, f"not a saved concept table, or damaged: {error}") from error
