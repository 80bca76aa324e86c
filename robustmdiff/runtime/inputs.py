"""From a batch to what the engine takes: `export.graph.DiagnosisGraph` says what that is. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from robustmdiff.data.batch import Batch
from robustmdiff.data.task import Modality, Task

Arrays = dict[str, np.ndarray]


def feed(batch: Batch[np.ndarray], task: Task) -> Arrays:
    """NAME.at int64 [B], and the n >= 1 observations of each modality: where nobody has one, a blank."""
    found: Arrays = {}
    for modality in task.modalities:
        packed: Any = batch.inputs[modality.name]
        at = np.full(len(batch), -1, dtype=np.int64)
        at[packed.rows] = np.arange(len(packed.rows))
        own = PACKED[modality.kind](packed) if len(packed.rows) else BLANK[modality.kind](modality)
        found |= {f"{modality.name}.{key}": x for key, x in ({"at": at} | own).items()}
    return found


def _texts(packed: Any) -> Arrays:
    lengths = packed.lengths
    ids = np.zeros((len(lengths), int(lengths.max())), dtype=np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = packed.input_ids
    return {"input_ids": ids, "lengths": lengths}


PACKED: Mapping[str, Callable[[Any], Arrays]] = {
    "image": lambda packed: {"pixels": packed.pixels},
    "text": _texts,
    "values": lambda packed: {"value": packed.value, "present": packed.present},
}


def _blank_values(modality: Modality) -> Arrays:
    shape = 1, len(modality.fields)
    return {"value": np.zeros(shape, dtype=np.float32), "present": np.zeros(shape, dtype=bool)}


BLANK: Mapping[str, Callable[[Modality], Arrays]] = {
    "image": lambda modality: {"pixels": np.zeros((1, *(modality.shape or ())), dtype=np.float32)},
    "text": lambda modality: {
        "input_ids": np.zeros((1, 1), dtype=np.int64),
        "lengths": np.ones(1, dtype=np.int64),
    },
    "values": _blank_values,
}
