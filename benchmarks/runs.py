"""The recorded rows, read back: of every workload the latest run on each machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def latest(folder: Path = RESULTS) -> list[Row]:
    """Rows that `comparison.append` wrote, the older runs of a workload left out."""
    runs: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in _rows(sorted(folder.glob("*.jsonl"))):
        what = (row["machine"], row["op"], row["workload"], row["dtype"], row.get("curve", ""))
        runs.setdefault(what, {}).setdefault(row["date"], []).append(row)
    return [row for dates in runs.values() for row in dates[max(dates)]]


def _rows(files: Iterable[Path]) -> Iterable[Row]:
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "verdict" in row:  # other lines are gpu_verify's tests, and runs from before this suite
                yield row


def slug(machine: str) -> str:
    """A machine's name as files have it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", machine).strip("-")


def machines(rows: Iterable[Row]) -> list[str]:
    """GPUs first."""
    device = {row["machine"]: row["device"] for row in rows}
    return sorted(device, key=lambda machine: (device[machine] != "cuda", machine))
