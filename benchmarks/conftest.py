"""Side by side in one process: every candidate once a round, in turning order, against the machine's limit.

`pytest benchmarks` prints one table a workload and appends its rows to benchmarks/results/*.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

RESULTS = Path(__file__).parent / "results"
Candidates = dict[str, Callable[[], object]]


def _machine() -> dict[str, object]:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    sha = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": sha,
        "load": round(os.getloadavg()[0], 1),  # processes that ran meanwhile: under 1 is a quiet machine
    }


def _seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _calls(call: Callable[[], object]) -> int:
    """Enough calls for about 2 ms, after two to warm up."""
    _seconds(call, 2)
    return max(1, int(2e-3 / max(_seconds(call, 1), 1e-7)))


def measure(candidates: Candidates, limits: Candidates, rounds: int) -> list[dict[str, object]]:
    """Per candidate: the median time, and the median and quartiles of its ratio to the limit of the
    same round. The limit of a round is the fastest of `limits`, which move the same bytes and do nothing."""
    everything = candidates | limits
    calls = {name: _calls(call) for name, call in everything.items()}
    times: dict[str, list[float]] = {name: [] for name in everything}
    names = list(everything)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds(everything[name], calls[name]))
    floor = [min(times[name][turn] for name in limits) for turn in range(rounds)]
    rows = []
    for name in candidates:
        ratios = sorted(spent / least for spent, least in zip(times[name], floor, strict=True))
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "candidate": name,
                "ms": round(1e3 * statistics.median(times[name]), 4),
                "ratio": round(statistics.median(ratios), 2),
                "quartiles": [round(low, 2), round(high, 2)],
                "limit_ms": round(1e3 * statistics.median(floor), 4),
            }
        )
    return rows


@pytest.fixture
def compare(capsys):
    """compare(op, workload, candidates, limits, bytes_moved): measure, print a table, append the rows."""

    def run(
        op: str, workload: str, candidates: Candidates, limits: Candidates, bytes_moved: int, rounds: int = 40
    ) -> list[dict[str, object]]:
        rows = measure(candidates, limits, rounds)
        machine = _machine()
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{op}.jsonl").open("a") as file:
            for row in rows:
                file.write(
                    json.dumps({"op": op, "workload": workload, **row, "rounds": rounds, **machine}) + "\n"
                )
        limit = float(str(rows[0]["limit_ms"]))
        with capsys.disabled():
            print(
                f"\n\n{op}, {workload}: limit {limit:.3f} ms = {bytes_moved / limit / 1e6:.1f} GB/s", end=""
            )
            print(f"  ({machine['cpu']}, {machine['threads']} threads, load {machine['load']})")
            for row in rows:
                low, high = row["quartiles"]  # type: ignore[misc]
                name, spread = str(row["candidate"]), f"({low} to {high})"
                print(f"  {name:34} {row['ms']:>10} ms  {row['ratio']:>7} x limit  {spread}")
        return rows

    return run
