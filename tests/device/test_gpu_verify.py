"""tools/gpu_verify.py, end to end on the CPU backends: what it will do on the day there is a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_verify.py"


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--commit", "abc", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def rows_of(folder: Path) -> list[dict]:
    (file,) = folder.glob("*-abc.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def gpu_verify():
    spec = importlib.util.spec_from_file_location("gpu_verify", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_verify"] = module
    spec.loader.exec_module(module)
    return module


def test_it_writes_each_test_and_each_stage(tmp_path):
    done = verify("--device", "cpu", "--results", str(tmp_path), "--only", "smoke", "streams")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(tmp_path)
    machine = rows[0]
    assert machine["copy_GB_per_s"] > 0
    assert machine["matmul_float32_TFLOP_per_s"] > 0
    tests = [row for row in rows if row["stage"] == "smoke" and "test" in row]
    assert {row["outcome"] for row in tests} == {"passed", "skipped"}  # Triton says that it cannot run
    assert any("masked_attention-tiny" in row["test"] for row in tests)
    ends = {row["stage"]: row["outcome"] for row in rows if "test" not in row and "outcome" in row}
    assert ends == {"probe": "passed", "smoke": "passed", "streams": "cannot run here"}
    assert "smoke" in done.stdout.splitlines()[-3]


def test_without_budget_nothing_is_lost_and_nothing_looks_green(tmp_path):
    done = verify("--device", "cpu", "--results", str(tmp_path), "--budget-s", "0", "--only", "smoke")
    assert done.returncode == 1
    assert [row["outcome"] for row in rows_of(tmp_path) if row["stage"] == "smoke"] == ["out of time"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = verify("--results", str(tmp_path))
    assert done.returncode == 2
    assert "torch sees no GPU" in done.stderr


def test_an_unknown_stage_is_named(tmp_path):
    done = verify("--device", "cpu", "--results", str(tmp_path), "--only", "smokes")
    assert done.returncode == 2
    assert "'smokes'" in done.stderr


def test_a_stage_that_is_finished_is_not_run_again(tmp_path, gpu_verify):
    path = tmp_path / "a.jsonl"
    results = gpu_verify.Results(path)
    results.add(
        "smoke",
        [{"test": "t", "outcome": "failed", "why": "x"}, {"outcome": "failed", "tests": {"failed": 1}}],
    )
    results.add("grid", [{"outcome": "out of time"}])
    again = gpu_verify.Results(path)
    assert again.finished("smoke")
    assert not again.finished("grid")
    assert not again.finished("streams")
    assert again.failed()
    assert "FAILED t" in again.summary()


def test_a_stage_past_its_limit_keeps_what_was_done(gpu_verify):
    slow = "import time; time.sleep(60)"
    stage = gpu_verify.Stage("slow", 5.5, (sys.executable, "-c", slow))
    (row,) = gpu_verify.run(stage, "cpu", 6)
    assert row["outcome"] == "out of time"
    missing = gpu_verify.Stage("missing", 5, ("no-such-program",))
    assert gpu_verify.run(missing, "cpu", 60) == [
        {"outcome": "cannot run here", "why": "there is no no-such-program"}
    ]
