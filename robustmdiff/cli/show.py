"""What the command line prints: JSON, or text that reads well in 80 columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustmdiff.data.bad_rows import BadRows

WORD = 20  # letters; longer words (paths) may be broken
NOTHING_KNOWN = "nothing is known of them: the answer is the prevalence of each class"
Rows = Sequence[Mapping[str, Any]]


def show(result: Mapping[str, Any], as_json: bool, tables: Mapping[str, Rows] | None = None) -> None:
    """The result as JSON on standard output; or the tables, by title; or name and value line by line."""
    if as_json:
        print(json.dumps(result, default=str))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if tables is None:
        grid = Table.grid(padding=(0, 2))
        for name, value in result.items():
            grid.add_row(Text(name), Text(_cell(value)))
        console.print(grid)
        return
    for title, rows in tables.items():
        console.print(Text(title))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in rows[0] if rows else []:
            numeric = all(isinstance(row[column], float | int | None) for row in rows)
            heading = column.replace("_", " ")
            words = " ".join([heading, *(_cell(row[column]) for row in rows)]).split()
            table.add_column(
                Text(heading.replace(" ", "\n") if numeric else heading),
                justify="right" if numeric else "left",
                min_width=min(max(map(len, words), default=0), WORD),
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        console.print(table, "")


def transposed(rows: Rows) -> list[dict[str, Any]]:
    """A column for each row, under what its first column says: few methods, many metrics."""
    if not rows:
        return []
    first, *others = rows[0]
    return [{"": name} | {str(row[first]): row[name] for row in rows} for name in others]


def show_predictions(rows: Rows) -> None:
    """Patient by patient: what is missing, and the prediction set, likeliest first."""
    for line in prediction_lines(rows):
        print(line)


def prediction_lines(rows: Rows) -> Iterator[str]:
    drawn = any(row["low"] is not None for row in rows)
    middle = " and the middle 90 % of its draws" if drawn else ""
    yield f"Prediction sets, with the probability of each class{middle}"
    yield from dict.fromkeys(f"Answers come from the {row['answer']}" for row in rows)
    for patient, found in groupby(rows, key=lambda row: row["patient"]):
        classes = list(found)
        first = classes[0]
        notes = [f"without {', '.join(first['missing'].split())}"] if first["missing"] else []
        notes = [NOTHING_KNOWN] if first["nothing_known"] else notes
        notes += ["unlike the training patients"] if first["unlike_training"] else []
        yield ""
        yield f"{patient}  ({'; '.join(notes)})" if notes else str(patient)
        chosen = sorted((row for row in classes if row["in_set"]), key=lambda row: -row["probability"])
        for row in chosen:
            middle = f"  {row['low']:.3f} to {row['high']:.3f}" if row["low"] is not None else ""
            yield f"  {row['probability']:.3f}{middle}  {row['class']}"
        if not chosen:
            yield "  no class is likely enough"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_cell(inner)}" for name, inner in value.items())
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def left_out(bad: BadRows) -> dict[str, list[str]]:
    """Tells on standard error what was left out; the same for the JSON, where skipping was asked for."""
    for problem in bad.problems:
        print(f"left out: {problem}", file=sys.stderr)
    return {"left_out": bad.problems} if bad.skip else {}
