"""The tables of the pages, from the records.

A page marks the place with two comments, `results: NAME` (of a study in the plan) and `end of results`.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustmdiff.evaluation.statistics import Interval
from tools.results import generators

PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
NONE = "No run is recorded yet: `make results`.\n"
Row = dict[str, Any]
Cells = dict[str, str]  # of a row, by the head of the column
PROBABILITIES = {
    "auroc/macro": "macro AUROC",
    "auroc/rare": "AUROC of the rare",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "ECE",
    "ece/classwise": "ECE",
}
SETS = {
    "coverage": "coverage",
    "coverage/rare": "of the rare",
    "coverage/common": "of the common",
    "set_size": "classes in a set",
}
GROUPS = {"in_the_large": "stated minus true", "ece": "ECE", "coverage": "coverage"}
MARGINAL = (
    " *Marginal*: the sets of one threshold for all classes, chosen on the tested so that they hold exactly "
    "90 % of them."
)
FORECASTS = {
    "energy": "energy score",
    "coverage": "intervals of 90 % that hold",
    "tests": "change in the chosen fifth of tests",
    "rho": "rank correlation with the move",
    "error": "error of the mean latent",
}


def stale(pages: Sequence[Path], records: Path) -> dict[Path, str]:
    """The pages that are not what the records say, and what they should be."""
    wanted = {page: rewritten(page.read_text(encoding="utf-8"), records) for page in pages}
    return {page: text for page, text in wanted.items() if text != page.read_text(encoding="utf-8")}


def rewritten(page: str, records: Path) -> str:
    page = PLACE.sub(lambda place: f"{place[1]}{section(records / f'{place[2]}.jsonl')}{place[3]}", page)
    return generators.rewritten(page, records)


def section(record: Path) -> str:
    """All that a record says: probabilities, RobustMDiff minus the others, sets, groups, forecasts."""
    if not record.exists():
        return NONE
    rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    first, tables = rows[0], [_about(rows)]
    values = [_cells(row["values"], PROBABILITIES) | _cost(row) for row in rows]
    tables.append(_table([_people(rows), *zip(_names(rows), values, strict=True)]))
    others = [row for row in rows if row["ours_minus"]]
    minus = [_cells(row["ours_minus"], PROBABILITIES) for row in others]
    tables += [
        "RobustMDiff minus each, on the same resamples:",
        _table(list(zip(_names(others), minus, strict=True))),
    ]
    with_sets = [row for row in rows if "coverage" in row["values"]["complete"]]
    if with_sets:
        sets = [_cells(row["values"], SETS) | _marginal(row) for row in with_sets]
        promise = "Prediction sets that promise 90 %." + (MARGINAL if first["marginal"] else "")
        tables += [promise, _table([_people(with_sets), *zip(_names(with_sets), sets, strict=True)])]
    if first.get("groups"):
        of = first["groups"]
        groups = [
            (name, {"people": str(group["people"])} | _cells(group, GROUPS)) for name, group in of.items()
        ]
        tables += ["RobustMDiff, group by group:", _table(groups)]
    parts = tables + _forecasts(first.get("forecasts"))
    return "\n\n".join(part if part.startswith("|") else _filled(part) for part in parts) + "\n"


def _filled(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _about(rows: Sequence[Row]) -> str:
    first, asked = rows[0], rows[0]["asked"]
    plan, study = asked["plan"], asked["study"]
    if plan["folds"]:
        how = f"{plan['repeats']} x {plan['folds']} folds by person, a training seed for each division"
    else:
        how = f"training seeds {', '.join(map(str, plan['seeds']))}"
    if plan["tuned"]:
        tuned = f"settings found in `{plan['tuned']}`"
    else:
        untuned = plan["folds"] or not plan["trials"]
        tuned = "default settings" if untuned else f"{plan['trials']} trials a method"
    text = (
        f"{first['people']} people are tested; {tuned}; {how}; {plan['replicates']} resamples. RobustMDiff "
        f"answers, run by run, by its {', '.join(first['answers'])}. "
        f"`python -m tools.results --only {study}`, commit {first['commit']}, {first['date']}."
    )
    if "cpu_seconds" in first:
        hours = {part: sum(row["cpu_seconds"][part] for row in rows) / 3600 for part in first["cpu_seconds"]}
        text += " CPU hours: " + ", ".join(f"{hour:.2f} {part}" for part, hour in hours.items()) + "."
    return text


def _names(rows: Sequence[Row]) -> list[str]:
    return [row["method"] for row in rows]


def _cells(found: Row, titles: Mapping[str, str]) -> Cells:
    """The metrics that have a title, of numbers by condition and metric."""
    whens = ("complete", "half") if titles is PROBABILITIES else ("complete", "half", "half, MNAR")
    return {
        f"{title}, {when}": _interval(found[when][metric])
        for metric, title in titles.items()
        for when in whens
        if metric in found.get(when, {})
    }


def _people(rows: Sequence[Row]) -> tuple[str, Cells]:
    """Under the head of a table, on how many people a column rests."""
    titles = PROBABILITIES | SETS
    return "people", {
        f"{titles[metric]}, {when}": str(n)
        for when, found in rows[0]["values"].items()
        for metric, n in rows[0]["of"].items()
        if metric in found
    }


def _cost(row: Row) -> Cells:
    """What a trial chose, and what a run takes; {} of what is not trained here."""
    if row.get("trial") is None:
        return {}
    trial = ", ".join(f"{name.removeprefix('model.')} {value:g}" for name, value in row["trial"].items())
    plan = row["asked"]["plan"]
    seconds = row["cpu_seconds"]["training"] / len(plan["seeds"])
    return {"tuned to": trial} | ({} if plan["folds"] else {"CPU seconds a run": f"{seconds:.0f}"})


def _marginal(row: Row) -> Cells:
    titles = {"coverage/rare": "marginal, of the rare", "set_size": "marginal, classes"}
    return {
        f"{title}, {when}": f"{found[metric]:.3f}"
        for metric, title in titles.items()
        for when, found in row.get("marginal", {}).items()
    }


def _forecasts(found: Row | None) -> list[str]:
    if not found:
        return []
    scores = [(name, _of_forecast(each)) for name, each in found["scores"].items()]
    scores.append(("a fixed order of tests", {FORECASTS["tests"]: _interval(found["fixed_order"])}))
    own, minus = next(iter(found["scores"])), found["own_minus"].items()
    by_hidden = [
        (
            name,
            {
                f"{hidden} hidden": f"{_interval(each['energy'])}; {_interval(each['coverage'])}"
                for hidden, each in counts.items()
            },
        )
        for name, counts in found["by_hidden"].items()
    ]
    return [
        f"What seeing the rest will do, asked of {found['people']} people:",
        _table(scores),
        f"{own} minus each:",
        _table([(name, _of_forecast(each)) for name, each in minus]),
        "Energy score and intervals that hold, by how many modalities are hidden:",
        _table(by_hidden),
    ]


def _of_forecast(found: Row) -> Cells:
    return {title: _interval(found[metric]) for metric, title in FORECASTS.items() if metric in found}


def _table(rows: Sequence[tuple[str, Cells]]) -> str:
    """Names down; a column for each head that any row but the people's has."""
    heads = list(dict.fromkeys(head for name, cells in rows for head in cells if name != "people"))
    lines = [["", *heads], ["---"] * (len(heads) + 1)]
    lines += [[name, *[cells.get(head, "") for head in heads]] for name, cells in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _interval(numbers: list[float | None] | None) -> str:
    return "" if numbers is None else str(Interval(*(math.nan if n is None else n for n in numbers)))
