"""The numbers in the docs are what the recorded runs say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import plots, runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "tools" / "benchmark_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(candidate: str, part: str, ms: float, **more) -> dict:
    ours = candidate.startswith("ours")
    return {
        "op": "masked_attention", "workload": "half present", "dtype": "float32", "pass": part,
        "candidate": candidate, "ours": ours, "ms": ms, "prepare_ms": 0.25 if part == "forward" else None,
        "times_limit": [ms / 2, ms / 2.5, ms], "limit": "matmul", "limit_ms": 2.0, "limit_moved": 0.03,
        "need": {"matmul": 1e9}, "rounds": 9, "verdict": "measured", "peak_mib": 12.0,
        "machine": "A machine, 2 cores", "device": "cpu", "threads": 2, "torch": "2.13.0",
        "commit": "abc1234", "date": "2026-01-02 03:04",
    } | ({"against": {"SDPA": [0.65, 0.6, 0.7]}} if ours else {}) | more  # fmt: skip


ROWS = [
    row("ours, native", "forward", 3.0),
    row("SDPA", "forward", 4.5),
    row("ours, native", "backward", 7.0, verdict="inconclusive", limit_moved=0.4),
    row("SDPA", "backward", 9.0),
    {**row("xformers", "forward", 0), "verdict": "cannot run", "reason": "ImportError: no xformers"},
]
del ROWS[-1]["ms"]


def test_every_page_is_what_the_generator_gives(tables):
    rows = runs.latest()
    assert len(tables.pages()) >= 5
    for page in tables.pages():
        same = tables.rewritten(page.read_text(encoding="utf-8"), rows) == page.read_text(encoding="utf-8")
        assert same, f"{page.relative_to(ROOT)} is stale: run `python tools/benchmark_tables.py`"


def test_a_table_names_the_run_and_compares(tables):
    text = tables.section("masked_attention", ROWS)
    assert "A machine, 2 cores, 2 threads, torch 2.13.0, commit abc1234, 2026-01-02" in text
    assert "0.65 (0.60 to 0.70)" in text
    assert "67 %" in text  # of the limit
    assert "**inconclusive**, it moved 40 %" in text
    assert "not timed: xformers: ImportError: no xformers" in text
    assert "(inconclusive)" in tables.summary(ROWS)
    assert tables.section("graph_attention", ROWS) == tables.NONE


def test_a_page_is_rewritten_between_its_markers_only(tables):
    page = "before\n<!-- numbers: graph_attention -->\nold\n<!-- end of numbers -->\nafter\n"
    new = tables.rewritten(page, ROWS)
    assert new == page.replace("old\n", tables.NONE)
    assert tables.rewritten(new, ROWS) == new


def test_the_latest_run_of_a_workload_counts(tmp_path):
    lines = [
        row("SDPA", "forward", 9.0, date="2026-01-01 00:00"),
        row("SDPA", "forward", 4.5),
        {"stage": "smoke"},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (found,) = runs.latest(tmp_path)
    assert found["ms"] == 4.5


def test_the_plots_are_drawn(tmp_path):
    curve = [
        row(name, "forward", x * 5, curve="fraction present", x=x, need={"matmul": x * x})
        for name in ("ours, native", "SDPA")
        for x in (0.5, 1.0)
    ]
    graph = [row("ours, native", "forward", 5.0, op="graph_attention", curve="graph", x="HPO")]
    files = plots.draw([*curve, *graph], tmp_path)
    machine = "A-machine-2-cores"
    assert [file.name for file in files] == [f"{op}_attention_{machine}.png" for op in ("masked", "graph")]
    assert all(file.stat().st_size > 5000 for file in files)
