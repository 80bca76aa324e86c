"""From a batch to what the engine takes: `export.graph.DiagnosisGraph` says what that is. Numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustmdiff.data.batch import Batch
from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import OPEN, Spec
from robustmdiff.data.task import Task

Arrays = dict[str, np.ndarray]
VIEW = "view"


def specs_of(task: Task) -> dict[str, Spec]:
    """What `feed` gives."""
    found: dict[str, Spec] = {}
    for modality in task.modalities:
        own = {"at": Spec(np.dtype(np.int64), (OPEN,))} | KINDS[modality.kind].specs(modality)
        found |= {f"{modality.name}.{key}": spec for key, spec in own.items()}
    return found


def feed(batch: Batch[np.ndarray], task: Task) -> Arrays:
    """NAME.at int64 [B], and the n >= 1 observations of each modality: where nobody has one, a blank."""
    found: Arrays = {}
    for modality in task.modalities:
        packed: Any = batch.inputs[modality.name]
        kind, at = KINDS[modality.kind], np.full(len(batch), -1, dtype=np.int64)
        at[packed.rows] = np.arange(len(packed.rows))
        if len(packed.rows):
            own = kind.arrays(packed)
        else:
            own = {key: spec.blanks(1) for key, spec in kind.specs(modality).items()}
        found |= {f"{modality.name}.{key}": x for key, x in ({"at": at} | own).items()}
    return found


def everything(patients: int, task: Task) -> Arrays:
    """The view that leaves nothing out, bool [B, M]: of a model that makes draws."""
    return {VIEW: np.ones((patients, len(task.modalities)), dtype=bool)}


def with_one_more(patient: Arrays, task: Task, together: np.ndarray) -> tuple[list[str], Arrays]:
    """The modalities that one patient lacks and can be asked for: some of the views `together`, bool [V, M],
    hold them and what is there. And the patient's arrays once for each, with the view of that one more."""
    names = task.modality_names
    present = np.array([patient[f"{name}.at"][0] >= 0 for name in names])
    more = present | np.eye(len(names), dtype=bool)
    known = (together | ~more[:, None]).all(-1).any(-1)  # [M]
    asked = np.flatnonzero(~present & known)
    at = {f"{name}.at": np.repeat(patient[f"{name}.at"], len(asked)) for name in names}
    return [names[j] for j in asked], patient | at | {VIEW: more[asked]}
