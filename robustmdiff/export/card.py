"""model_card.json: what an exported model is for, of whom it was made, where its thresholds lie, how well it
does for whom, and which files it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import robustmdiff
from robustmdiff.data.splits import load_split
from robustmdiff.evaluation.report import METRICS_COMPARED, METRICS_OF_SUBSETS
from robustmdiff.experiment.run import SPLIT, Run, digest
from robustmdiff.refusal import Refusal
from robustmdiff.training.notes import read_notes

CARD, FORMAT = "model_card.json", 1
# docs/model_card.md says so, at greater length.
INTENDED_USE = (
    "Research on diagnosis with incomplete records: measuring how a model degrades when modalities are "
    "missing, comparing methods fairly, studying explanations and next-test ranking."
)
NOT_INTENDED = (
    "Decisions about patients. The software is not a medical device and is not approved anywhere. It has "
    "never been evaluated prospectively or on a clinical population."
)
Json = dict[str, Any]


def model_card(run: Run, files: Mapping[str, str]) -> Json:
    """files: the SHA-256 of each file of the model, by its name.

    {"intended_use", "not_intended", "limits": [a sentence of the training each],
     "task": classes with their prevalence, modalities with their kind and pretrained encoder,
     "populations": where patients came from, and how many trained, calibrated and were tested,
     "thresholds": `thresholds`, "evaluation": `evaluation`,
     "sha256": {"run": as in the reports of `robustmdiff report`, "files": files}}

    Raises Refusal for a damaged evaluation of the run.
    """
    task = run.task
    return {
        "format": FORMAT,
        "name": type(run.model).__name__,
        "version": robustmdiff.__version__,
        "intended_use": INTENDED_USE,
        "not_intended": NOT_INTENDED,
        "limits": [note.sentence for note in read_notes(run.folder)],
        "task": {
            "classes": dict(zip(task.classes, task.prevalence, strict=True)),
            "rare": list(task.rare),
            "multilabel": task.multilabel,
            "modalities": {
                m.name: {"kind": m.kind, "encoder": _published(m.encoder)} for m in task.modalities
            },
        },
        "populations": {
            "data": run.source.data,
            "options": dict(run.source.options),
            "records": {name: len(ids) for name, ids in load_split(run.folder / SPLIT).items()},
        },
        "thresholds": thresholds(run),
        "evaluation": evaluation(run),
        "sha256": {"run": digest(run.folder), "files": dict(files)},
    }


def check_made_of(folder: Path, run: Path) -> None:
    """Raises Refusal unless the folder was exported of this run, as it is now."""
    try:
        written = json.loads((folder / CARD).read_text(encoding="utf-8"))["sha256"]["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f"{folder / CARD}: does not say of which run the model is, expected one that does"
        ) from error
    if (found := digest(run)) != written:
        raise Refusal(
            f"{run}: is not the run that {folder} was exported from (SHA-256 {found[:12]}..., expected "
            f"{str(written)[:12]}...)"
        )


def thresholds(run: Run) -> Json:
    """By the number of modalities that a patient has, from 0 on: the least probability with which a class is
    in the prediction set (of one label the likeliest class always is), and the largest distance from the
    training patients without abstention (null: any)."""
    task, sets = run.task, run.conformal
    largest = sets.by_size(len(task.modalities), len(task.classes))
    distance = [] if run.abstention is None else run.abstention.threshold
    return {
        "prediction_sets": {
            "level": 1 - sets.alpha,
            "kept": sets.kept_for,
            "least_probability": {
                name: [round(max(0.0, 1 - q), 6) for q in largest[:, c].tolist()]
                for c, name in enumerate(task.classes)
            },
        },
        "abstention": {"distance": [round(d, 6) if math.isfinite(d) else None for d in distance]},
    }


def evaluation(run: Run) -> Json | None:
    """What `robustmdiff evaluate` found of the run's own test patients, [value, low, high] by condition and
    metric, of all and of each subgroup; None where it was not asked. An evaluation of an earlier version may
    lack people, notes and subgroups."""
    path = run.folder / "evaluation" / "results.json"
    if not path.exists():
        return None
    method = type(run.model).__name__
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        conditions = found["methods"][method]["conditions"]
        shown = found["methods"][method]["reliability"]  # the two to look at: complete, and half missing
        return {
            **{key: found.get(key) for key in ("records", "people", "notes")},
            "metrics": {key: _some(conditions[key]) for key in shown},
            "subgroups": [
                {"group": name} | {key: group[key] for key in ("people", "records")}
                | {"metrics": group["methods"].get(method, {})}
                for name, group in found.get("groups", {}).items()
            ],
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(f"{path}: is no evaluation of this run ({error!r}); evaluate it again") from error


def _published(encoder: str | None) -> str | None:
    """A pretrained model by its name; of a folder the last part, which tells nothing of this machine."""
    return Path(encoder).name if encoder is not None and Path(encoder).exists() else encoder


def _some(metrics: Mapping[str, Any]) -> Json:
    wanted = dict.fromkeys((*METRICS_COMPARED, *METRICS_OF_SUBSETS))
    return {name: metrics[name] for name in wanted if name in metrics}
