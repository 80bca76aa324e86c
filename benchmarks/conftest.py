"""Options of the suite, and the fixture that measures: `python -m pytest benchmarks`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytest_benchmark.stats import Metadata

from benchmarks import comparison, machine
from benchmarks.candidates import Workload
from benchmarks.limits import Limit
from benchmarks.measure import Samples


def pytest_addoption(parser: pytest.Parser) -> None:
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    add = parser.getgroup("kernels").addoption
    add("--device", choices=["cpu", "cuda"], default=os.environ.get("RMD_TEST_DEVICE", cuda))
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="default: float32 on the CPU, bfloat16 on a GPU",
    )
    add("--seconds", type=float, default=4.0, help="to measure each pass of a workload for (default 4)")
    add("--results", type=Path, help="JSONL to append to (benchmarks/results/<machine>-<commit>.jsonl)")
    add("--commit", help="what to call this tree where there is no git")
    add(
        "--ontology-dir",
        type=Path,
        default=os.environ.get("RMD_ONTOLOGIES"),
        help="folder with OBO files or Orphanet's tables, for graph_attention on real graphs "
        "(the environment variable RMD_ONTOLOGIES)",
    )
    add(
        "--profile",
        action="store_true",
        help="a torch profiler trace of each of our kernels, in the folder traces beside the results",
    )


@pytest.fixture(scope="session")
def device(pytestconfig) -> str:
    return pytestconfig.getoption("--device")


@pytest.fixture(scope="session")
def dtype(pytestconfig, device) -> torch.dtype:
    given = pytestconfig.getoption("--dtype") or ("float32" if device == "cpu" else "bfloat16")
    return getattr(torch, given)


@pytest.fixture
def record(pytestconfig, capsys, device) -> Callable[[Sequence[comparison.Row]], None]:
    """record(rows): print them and append them to the results."""
    commit = pytestconfig.getoption("--commit") or machine.commit()
    file = pytestconfig.getoption("--results") or machine.results_file(device, commit)

    def run(rows: Sequence[comparison.Row]) -> None:
        comparison.append(file, rows, machine.describe(device, commit))
        with capsys.disabled():
            print("\n" + comparison.table(rows))

    run.file = file
    return run


@pytest.fixture
def bench(request, record) -> Callable[..., list[comparison.Row]]:
    """bench(workload, makers, tiny, limits, share=1, **labels): compare and record; `share` of --seconds.

    Other arguments of `comparison.compare` are handed on; further ones are put into every row.
    """

    def run(
        workload: Workload,
        makers: comparison.Makers,
        tiny: Workload,
        limits: Sequence[Limit],
        *,
        share: float = 1.0,
        training: bool = True,
        memory: bool = True,
        check: comparison.Check | None = None,
        **labels: Any,
    ) -> list[comparison.Row]:
        rows, samples = comparison.compare(
            workload,
            makers,
            tiny,
            limits,
            seconds=share * request.config.getoption("--seconds"),
            training=training,
            memory=memory,
            check=check,
            traces=record.file.parent / "traces" if request.config.getoption("--profile") else None,
        )
        rows = [row | labels for row in rows]
        record(rows)
        _to_pytest_benchmark(request, rows, samples)
        return rows

    return run


def _to_pytest_benchmark(
    request: pytest.FixtureRequest, rows: Sequence[comparison.Row], samples: dict[str, Samples]
) -> None:
    """Hand our rounds to pytest-benchmark, whose own would time one function after the other. Its
    table, --benchmark-json and --benchmark-compare then work as usual."""
    session = request.config._benchmarksession  # type: ignore[attr-defined]
    if session.disabled:
        return
    for row in rows:
        if "ms" not in row:
            continue
        part, candidate = row["pass"], row["candidate"]
        stats = Metadata(
            SimpleNamespace(
                name=candidate,
                fullname=f"{request.node.nodeid}[{part}, {candidate}]",
                group=f"{row['op']}, {row['workload']}, {row['dtype']}, {part}",
                param=None,
                params=None,
                extra_info={key: row[key] for key in ("times_limit", "limit", "verdict")},
                cprofile_stats=None,
                has_error=False,
            ),
            iterations=1,
            options={"disable_gc": True},
        )
        for turns in samples.values():
            for seconds in turns.get(candidate, {}).get(part, ()):
                stats.update(seconds)
        session.benchmarks.append(stats)
