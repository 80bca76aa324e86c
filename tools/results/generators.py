"""What generators were measured to be, from run to record to page.

    python -m tools.results.generators RUN NAME     # RUN/evaluation/table.json -> results/generator_NAME.json

A page marks the place of a table with two comments, `generator: NAME` and `end of generator`; the tables of
all pages are written by `python -m tools.results --tables`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from robustmdiff.whole import write_whole

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"(<!-- generator: (\w+) -->\n).*?(<!-- end of generator -->)", re.DOTALL)
NONE = "Nothing is recorded yet: `make generate-demo`, then `python -m tools.results.generators`.\n"


def rewritten(page: str, records: Path) -> str:
    """The page with its tables as the records have them."""
    return PLACE.sub(
        lambda place: f"{place[1]}{section(records / f'generator_{place[2]}.json')}{place[3]}", page
    )


def section(record: Path) -> str:
    if not record.exists():
        return NONE
    held = json.loads(record.read_text(encoding="utf-8"))
    about = f"{held['about']} Commit {held['commit']}, {held['date']}."
    return "\n".join([*textwrap.wrap(about, 118), "", *_tables(held["rows"]), ""])


def _tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Tasks that follow one another and are measured alike share a table, with a column for each measure."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    for measures, alike in groupby(
        tasks.values(), lambda one: tuple(dict.fromkeys(r["measure"] for r in one))
    ):
        yield f"| task | method | {' | '.join(measures)} | patients |"
        yield "|---|---|" + "---|" * (len(measures) + 1)
        for task in alike:
            before = None
            for method in dict.fromkeys(row["method"] for row in task):
                own = {row["measure"]: row for row in task if row["method"] == method}
                cells = [_number(own[measure]) if measure in own else "" for measure in measures]
                name = "" if before == task[0]["task"] else task[0]["task"]
                before = task[0]["task"]
                patients = max(row["patients"] for row in own.values())
                yield f"| {name} | {method} | {' | '.join(cells)} | {patients} |"
        yield ""


def _measures(task: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row["measure"] for row in task))


def _number(row: dict[str, Any]) -> str:
    """Value, low and high end."""
    digits = 2 if "dB" in row["measure"] else 3
    value, low, high = (
        "" if row[end] is None else f"{row[end]:.{digits}f}".removeprefix("0").replace("-0.", "-.")
        for end in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})" if low else value


def record(name: str, about: str, rows: list[dict[str, Any]]) -> None:
    """Keep the rows of a table, and what it is about, as results/generator_NAME.json."""
    says = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    held = {
        "about": about,
        "commit": says.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "rows": rows,
    }
    path = ROOT / "results" / f"generator_{name}.json"
    write_whole(path, (json.dumps(held, indent=1) + "\n").encode())
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--config", required=True, help="the file it was trained with, for its command")
    given = parser.parse_args()
    source = json.loads((given.run / "study.json").read_text(encoding="utf-8"))
    options = "".join(f" --option {name}={value}" for name, value in source["options"].items())
    about = (
        f"`robustmdiff generator train --data {source['data']} --config {given.config}{options}`, then "
        "`robustmdiff generator evaluate`; one training, measured on patients that it has not seen. "
        "Intervals of 95 % are over patients."
    )
    rows = json.loads((given.run / "evaluation" / "table.json").read_text(encoding="utf-8"))
    record(given.name, about, rows)


if __name__ == "__main__":
    main()
