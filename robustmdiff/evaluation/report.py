"""An evaluation on paper: report.md, results.json, masks.npz, predictions.npz and figures."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.evaluation import statistics
from robustmdiff.evaluation.conditions import COMPLETE, Subset, mcar
from robustmdiff.evaluation.forecasts import METRICS, Comparison
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import Interval
from robustmdiff.evaluation.support import people_of
from robustmdiff.evaluation.tables import Cell, area, to_markdown

METRICS_COMPARED = ("auroc/macro", "auroc/rare", "sensitivity95/rare", "accuracy", "brier")
METRICS_OF_SUBSETS = ("auroc/macro", "auroc/rare", "sensitivity95/rare", "accuracy", "coverage", "set_size")


def write_report(
    results: Results, folder: str | Path, *, title: str = "Evaluation", notes: Sequence[str] = ()
) -> Path:
    """Write everything into `folder`; a file is replaced only once its successor is complete.

    notes are lines put under the title (the command, "one seed", "a rough model"). Returns the
    path of report.md.
    """
    from robustmdiff.evaluation.plots import draw

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        drawn = draw(results, unfinished)
        results.masks.save(unfinished / "masks.npz")
        stored = {
            f"{method}|{condition.key}": p
            for method, by_condition in results.probability.items()
            for condition, p in by_condition.items()
            if not isinstance(condition, Subset)
        }
        ids, (label, known) = np.array(results.masks.ids), results.truth
        with (unfinished / "predictions.npz").open("wb") as file:
            np.savez_compressed(file, ids=ids, label=label, known=known, **stored)  # type: ignore[arg-type]
        (unfinished / "results.json").write_text(json.dumps(to_json(results)), encoding="utf-8")
        (unfinished / "report.md").write_text(to_markdown(results, title, notes, drawn), encoding="utf-8")
        for file_name in sorted(p.name for p in unfinished.iterdir()):
            os.replace(unfinished / file_name, folder / file_name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / "report.md"


def headline(results: Results) -> list[dict[str, float | str | None]]:
    """The few numbers to look at first, a row for each method, the ceiling included."""
    half = results.half
    columns = {
        "AUROC": (COMPLETE, "auroc/macro"),
        "AUROC, half missing": (half, "auroc/macro"),
        "rare sensitivity, half missing": (half, "sensitivity95/rare"),
        "accuracy": (COMPLETE, "accuracy"),
        "ECE, half missing": (half, results.task.labels.calibration),
        "coverage, half missing": (half, "coverage"),
    }
    macro = results.support("auroc/macro")
    rows: list[dict[str, float | str | None]] = []
    for method in results.values:
        found: dict[str, Cell] = {name: results.interval(method, *cell) for name, cell in columns.items()}
        found["area under retention"] = area(results, method)
        numbers = {name: round(v.value, 3) if isinstance(v, Interval) else v for name, v in found.items()}
        tested = {"people": results.people, "records": len(results.masks.ids), "classes": len(macro.classes)}
        rows.append({"method": method, **numbers, **tested})
    return rows


def _numbers(interval: Interval) -> list[float | None]:
    """[value, low, high]; null for bounds that are left out."""
    return [round(x, 6) if np.isfinite(x) else None for x in interval]


def _retention(results: Results, method: str) -> dict[str, list[float | None]]:
    """Chance-corrected retention by condition, both sweeps."""
    sweeps = [mcar(rate, at_least_one=one) for one in (False, True) for rate in results.masks.rates]
    found = {condition.key: results.retained(method, condition) for condition in sweeps}
    return {key: _numbers(retained) for key, retained in found.items() if retained is not None}


def _reliability(results: Results, method: str) -> dict[str, dict[str, list[list[float]]]]:
    """By condition (complete, half) and class: [stated, right, patients] of every bin that is not empty."""
    return {
        condition.key: {
            name: [
                [round(float(stated), 6), round(float(right), 6), int(patients)]
                for stated, right, patients in zip(*results.reliability(method, condition, name), strict=True)
                if patients and np.isfinite(stated)
            ]
            for name in results.task.classes
        }
        for condition in (COMPLETE, results.half)
    }


def _group(results: Results, name: str) -> dict[str, Any]:
    """Who is in a group of patients, and what they are told: method, condition and metric to numbers."""
    rows = results.subgroups[name]
    found = {
        method: {
            condition.key: {
                metric: _numbers(interval)
                for metric in values
                if (interval := results.of_group(name, method, condition, metric)) is not None
            }
            for condition, values in conditions.items()
        }
        for method, conditions in results.of_subgroup.get(name, {}).items()
    }
    return {"people": people_of(results.persons, rows), "records": int(rows.sum()), "methods": found}


def _forecasts(found: Comparison) -> dict[str, Any]:
    """By forecast and metric."""
    order = statistics.interval(found.fixed_order)
    return {
        name: {
            metric: _numbers(value) for metric in METRICS if (value := scores.interval(metric)) is not None
        }
        for name, scores in found.scores.items()
    } | ({"fixed order": {"tests": _numbers(order)}} if order else {})


def to_json(results: Results) -> dict[str, Any]:
    """Numbers with their intervals, [value, low, high], both null where there are too few people for one;
    what is not defined is left out. "support" says on whom each metric rests. Subsets have
    METRICS_OF_SUBSETS only."""
    by_method: dict[str, Any] = {}
    for method, conditions in results.values.items():
        found = {
            condition.key: {
                metric: _numbers(interval)
                for metric in values
                if (not isinstance(condition, Subset) or metric in METRICS_OF_SUBSETS)
                and (interval := results.interval(method, condition, metric)) is not None
            }
            for condition, values in conditions.items()
        }
        areas = {name: results.area(method, one) for name, one in (("mcar", False), ("kept1", True))}
        near_chance = results.near_chance(method)
        by_method[method] = {
            "answer": results.answers.get(method),  # None of what is no model
            "conditions": found,
            "retention": _retention(results, method),
            "near_chance": near_chance and _numbers(near_chance),  # then there is no retention
            "share_of_ceiling": {
                condition.key: _numbers(share)
                for condition in conditions
                if (share := results.share_of_ceiling(method, condition)) is not None
            },
            "area_under_retention": {name: _numbers(a) for name, a in areas.items() if a is not None},
            "worst_subset": [subset.key for subset in results.worst_subsets(method)],
            "reliability": _reliability(results, method),
        }
    first, *others = results.methods
    differences = {
        f"{first} - {other}": {
            condition.key: {
                metric: _numbers(d)
                for metric in METRICS_COMPARED
                if (not isinstance(condition, Subset) or metric == "auroc/macro")
                and (d := results.difference(first, other, condition, metric))
            }
            for condition in results.masks.keep
        }
        for other in others
    }
    return {
        "notes": list(results.notes),
        "records": len(results.masks.ids),
        "people": results.people,
        "counts": {name: count._asdict() for name, count in results.counts.items()},
        "support": {
            metric: {"people": s.people, "classes": list(s.classes), "few": list(s.few), "enough": s.enough}
            for metric in sorted(
                {m for by in results.values.values() for found in by.values() for m in found}
            )
            for s in [results.support(metric)]
        },
        "groups": {name: _group(results, name) for name in results.subgroups},
        "classes": list(results.task.classes),
        "rare": list(results.task.rare),
        "skipped_classes": list(results.skipped),
        "modalities": list(results.masks.modalities),
        "alpha": results.alpha,
        "methods": by_method,
        "forecasts": _forecasts(results.forecasts) if results.forecasts else {},
        "paired_differences": differences,
    }
