"""An evaluation on paper: report.md, results.json, masks.npz, predictions.npz and figures."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustmdiff.evaluation import statistics
from robustmdiff.evaluation.conditions import COMPLETE, Condition, Subset, mcar
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import Interval

METRICS_COMPARED = ("auroc/macro", "auroc/rare", "sensitivity95/rare", "accuracy", "brier")
METRICS_OF_SUBSETS = ("auroc/macro", "auroc/rare", "sensitivity95/rare", "accuracy", "coverage", "set_size")
CAPTIONS = {
    "retention": "Macro AUROC against the missing rate, with 95 % intervals over patients.",
    "classes": "AUROC of each class with about half of the modalities missing.",
    "subsets": "The subsets of modalities that are hardest for the first method.",
    "reliability": "Stated probability against how often it was right.",
    "coverage": "Prediction sets: coverage and size for each subset of modalities.",
}


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
        "ECE, half missing": (half, "ece/classwise" if results.task.multilabel else "ece"),
        "coverage, half missing": (half, "coverage"),
    }
    rows: list[dict[str, float | str | None]] = []
    for method in results.values:
        found = {name: results.interval(method, *cell) for name, cell in columns.items()}
        found["area under retention"] = results.area(method)
        rows.append({"method": method, **{name: v and round(v.value, 3) for name, v in found.items()}})
    return rows


def _numbers(interval: Interval) -> list[float]:
    return [round(x, 6) for x in interval]


def _retention(results: Results, method: str) -> dict[str, list[float]]:
    """Chance-corrected retention by condition, both sweeps."""
    found = {}
    for one in (False, True):
        curve = results.retention(method, at_least_one=one)  # [R + 1, P], or [R + 1, 0]
        for p, rate in enumerate(results.masks.rates[: curve.shape[1]]):
            retained = statistics.interval(curve[:, p])
            if retained is not None:
                found[mcar(rate, at_least_one=one).key] = _numbers(retained)
    return found


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


def to_json(results: Results) -> dict[str, Any]:
    """Numbers with their intervals, [value, low, high]; what is not defined is left out. Subsets have
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
        area = {name: results.area(method, one) for name, one in (("mcar", False), ("kept1", True))}
        near_chance = results.near_chance(method)
        by_method[method] = {
            "conditions": found,
            "retention": _retention(results, method),
            "near_chance": near_chance and _numbers(near_chance),  # then there is no retention
            "share_of_ceiling": {
                condition.key: _numbers(share)
                for condition in conditions
                if (share := results.share_of_ceiling(method, condition)) is not None
            },
            "area_under_retention": {name: _numbers(a) for name, a in area.items() if a is not None},
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
        "records": len(results.masks.ids),
        "people": results.people,
        "counts": {name: count._asdict() for name, count in results.counts().items()},
        "classes": list(results.task.classes),
        "rare": list(results.task.rare),
        "skipped_classes": list(results.skipped),
        "modalities": list(results.masks.modalities),
        "alpha": results.alpha,
        "methods": by_method,
        "paired_differences": differences,
    }


def to_markdown(results: Results, title: str, notes: Sequence[str] = (), drawn: Sequence[str] = ()) -> str:
    n, seen = len(results.masks.ids), results.truth
    lines = [f"# {title}", "", *[f"- {note}" for note in (*results.notes, *notes)]]
    counts = ", ".join(
        f"{name} {int((seen.label & seen.known)[:, c].sum())}" for c, name in enumerate(results.task.classes)
    )
    people = results.people
    who = f"{n} patients" if people == n else f"{n} records of {people} people"
    lines += [f"- {who}: {counts}.", f"- Modalities: {', '.join(results.masks.modalities)}."]
    if results.task.rare:
        lines.append(f"- Rare classes: {', '.join(results.task.rare)}.")
    if results.skipped:
        skipped = ", ".join(results.skipped)
        lines.append(f"- Left out of every mean over classes, as nobody or everybody has them: {skipped}.")
    lines += ["- In brackets: 95 % bootstrap intervals over patients."]
    for method in results.methods:
        if full := results.near_chance(method):
            lines.append(f"- No retention of {method}: its AUROC with everything, {full}, may be chance.")
    lines.append("")
    for heading, columns in _tables(results):
        lines += [f"## {heading}", "", *_table(results, columns), ""]
    lines += _differences(results) + _sweep(results) + _subsets(results)
    for name, caption in CAPTIONS.items():
        if f"{name}.png" in drawn:
            lines += [f"![{caption}]({name}.png)", "", caption, ""]
    return "\n".join(lines)


Column = Callable[[str], Interval | None]


def _tables(results: Results) -> list[tuple[str, dict[str, Column]]]:
    def at(condition: Condition, metric: str) -> Column:
        return lambda method: results.interval(method, condition, metric)

    def retained(method: str) -> Interval | None:
        curve = results.retention(method)
        at_half = [mcar(rate) for rate in results.masks.rates].index(half)
        return statistics.interval(curve[:, at_half]) if curve.shape[1] else None

    def worst(method: str) -> Interval | None:
        worst = results.worst_subsets(method)
        return results.interval(method, worst[0], "auroc/macro") if worst else None

    half = results.half
    return [
        (
            f"Robustness (macro AUROC; half = missing with probability {half.rate:g})",
            {
                "complete": at(COMPLETE, "auroc/macro"),
                "half": at(half, "auroc/macro"),
                "retention at half": retained,
                f"area 0 to {results.masks.rates[-1]:g}": lambda method: results.area(method),
                "area, one kept": lambda method: results.area(method, at_least_one=True),
                "share of ceiling at half": lambda method: results.share_of_ceiling(method, half),
                "worst subset": worst,
            },
        ),
        (
            "Rare and common classes",
            {
                f"{what} {group}, {when}": at(condition, f"{metric}/{group}")
                for what, metric in (("AUROC", "auroc"), ("sensitivity", "sensitivity95"))
                for group in ("rare", "common")
                for when, condition in (("complete", COMPLETE), ("half", half))
            },
        ),
        (
            f"Calibration and prediction sets ({1 - results.alpha:.0%} promised)",
            {
                f"{what}, {when}": at(condition, metric)
                for what, metric in (
                    ("accuracy", "accuracy"),
                    ("Brier", "brier"),
                    ("ECE", "ece/classwise" if results.task.multilabel else "ece"),
                    ("coverage", "coverage"),
                    ("set size", "set_size"),
                )
                for when, condition in (("complete", COMPLETE), ("half", half))
            },
        ),
    ]


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]


def _cell(value: Interval | None) -> str:
    return "" if value is None else f"{value.value:.3f} ({value.low:.3f}, {value.high:.3f})"


def _table(results: Results, columns: dict[str, Column]) -> list[str]:
    """Methods down, columns across; a column nobody has a number for is left out."""
    cells = {name: [_cell(column(method)) for method in results.values] for name, column in columns.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    rows = [[method, *[column[i] for column in cells.values()]] for i, method in enumerate(results.values)]
    return _rows(["", *cells], rows)


def _differences(results: Results) -> list[str]:
    first, *others = results.methods
    if not others:
        return []
    rows = [
        [other, metric, *[_cell(results.difference(first, other, c, metric)) for c in conditions]]
        for other in others
        for metric in ("auroc/macro", "sensitivity95/rare", "accuracy")
        for conditions in [[mcar(rate) for rate in results.masks.rates if rate in (0.0, 0.3, 0.5, 0.7)]]
    ]
    rates = [f"missing {rate:g}" for rate in results.masks.rates if rate in (0.0, 0.3, 0.5, 0.7)]
    heading = f"## {first} minus each other method, on the same resamples of patients"
    return [heading, "", *_rows(["minus", "of", *rates], [r for r in rows if any(r[2:])]), ""]


def _sweep(results: Results) -> list[str]:
    lines = []
    for one in (False, True):
        rows = []
        for method in results.values:
            curve = results.sweep(method, at_least_one=one)
            if curve.shape[1]:
                rows.append([method, *[f"{value:.3f}" for value in curve[0]]])
        if rows:
            heading = "at least one modality kept" if one else "nothing kept on purpose"
            header = ["missing", *[f"{rate:g}" for rate in results.masks.rates]]
            lines += [f"## Macro AUROC against the missing rate, {heading}", "", *_rows(header, rows), ""]
    return lines


def _subsets(results: Results) -> list[str]:
    worst = results.worst_subsets(results.methods[0], 10)
    if not worst:
        return []
    rows = [
        [subset.label, *[_cell(results.interval(m, subset, "auroc/macro")) for m in results.values]]
        for subset in worst
    ]
    heading = f"## Only these modalities left: macro AUROC, hardest for {results.methods[0]} first"
    return [heading, "", *_rows(["left", *results.values], rows), ""]
