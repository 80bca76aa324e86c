"""The tables of the pages, from the records.

A page marks the place with two comments, `results: NAME` (of a study in the plan) and `end of results`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustmdiff.evaluation.statistics import Interval

PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
NONE = "No run is recorded yet: `make results`.\n"
Row = dict[str, Any]
COLUMNS = (("auroc/macro", "macro AUROC"), ("log_loss", "log loss"), ("brier", "Brier score"))


def stale(pages: Sequence[Path], records: Path) -> dict[Path, str]:
    """The pages that are not what the records say, and what they should be."""
    wanted = {page: rewritten(page.read_text(encoding="utf-8"), records) for page in pages}
    return {page: text for page, text in wanted.items() if text != page.read_text(encoding="utf-8")}


def rewritten(page: str, records: Path) -> str:
    return PLACE.sub(lambda place: f"{place[1]}{section(records / f'{place[2]}.jsonl')}{place[3]}", page)


def section(record: Path) -> str:
    if not record.exists():
        return NONE
    rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    first, plan = rows[0], rows[0]["asked"]["plan"]
    tuning, training = (
        sum(row["cpu_seconds"][part] for row in rows) / 3600 for part in ("tuning", "training")
    )
    about = (
        f"{first['people']} people are tested; {plan['trials']} trials a method, training seeds "
        f"{', '.join(map(str, plan['seeds']))}; commit {first['commit']}, {first['date']}. CPU hours: "
        f"{tuning:.2f} for the trials, {training:.2f} for the runs."
    )
    return (
        f"{about}\n\n{_table(rows, 'values')}\nRobustMDiff minus each, on the same resamples:\n\n"
        + _table([row for row in rows if row["ours_minus"]], "ours_minus")
    )


def _table(rows: Sequence[Row], what: str) -> str:
    """Methods down; each metric complete and at half missing."""
    header = ["", *(f"{title}, {when}" for _, title in COLUMNS for when in ("complete", "half"))]
    if what == "values":
        header += ["tuned to", "CPU seconds a run"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [_interval(row[what][when][metric]) for metric, _ in COLUMNS for when in ("complete", "half")]
        if what == "values":
            trial = ", ".join(
                f"{name.removeprefix('model.')} {value:g}" for name, value in row["trial"].items()
            )
            cells += [trial, f"{row['cpu_seconds']['training'] / len(row['asked']['plan']['seeds']):.0f}"]
        lines.append([row["method"], *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _interval(numbers: list[float | None] | None) -> str:
    return "" if numbers is None else str(Interval(*(math.nan if n is None else n for n in numbers)))
