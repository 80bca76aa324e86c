"""tools/gpu_verify.py, end to end on the CPU backends: what it will do on the day there is a GPU."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_verify.py"
COMMAND = [sys.executable, str(SCRIPT), "--commit", "abc"]


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)


def rows_of(folder: Path) -> list[dict]:
    (file,) = folder.glob("*-abc*.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def ends_of(rows: list[dict]) -> dict[str, str]:
    return {row["stage"]: row["outcome"] for row in rows if "test" not in row and "outcome" in row}


@pytest.fixture(scope="module")
def gpu_verify():
    spec = importlib.util.spec_from_file_location("gpu_verify", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_verify"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow  # every stage, on small inputs: half a minute
def test_every_stage_in_two_calls_of_which_the_first_is_stopped(tmp_path):
    arguments = ["--device", "cpu", "--quick", "--results", str(tmp_path)]
    first = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
    for line in first.stdout:
        if line.startswith("contracts"):
            first.send_signal(signal.SIGTERM)
    assert first.wait() == 1
    rows = rows_of(tmp_path)
    assert {"probe": "passed", "smoke": "passed", "contracts": "out of time"}.items() <= ends_of(rows).items()
    machine, smoke = rows[0], [row for row in rows if row["stage"] == "smoke" and "test" in row]
    assert machine["copy_GB_per_s"] > 0
    assert machine["matmul_float32_TFLOP_per_s"] > 0
    assert {row["outcome"] for row in smoke} == {"passed", "skipped"}  # Triton says that it cannot run

    second = verify(*arguments)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "smoke ..." not in second.stdout
    rows = rows_of(tmp_path)
    assert [row for row in rows if row["stage"] == "smoke" and "test" in row] == smoke
    cuda = dict.fromkeys(("streams", "engines", "memcheck", "racecheck", "initcheck"), "cannot run here")
    passed = dict.fromkeys(("probe", "smoke", "contracts", "determinism", "benchmarks"), "passed")
    assert ends_of(rows) == passed | cuda
    assert [row["op"] for row in rows if row["stage"] == "benchmarks" and "ms" in row]


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
    failed = {"test": "t", "outcome": "failed", "why": "x"}
    results.add("smoke", [failed, {"outcome": "failed", "tests": {"failed": 1}}])
    results.add("grid", [failed, {"outcome": "out of time"}])
    again = gpu_verify.Results(path)
    assert again.finished("smoke")
    assert not again.finished("grid")
    assert [row["test"] for row in again.cut_short("grid")] == ["t"]
    assert not again.finished("streams")
    assert again.failed()
    assert "FAILED t" in again.summary()


TESTS = """
import os, time
def test_first(): pass
def test_crashes(): os._exit(3)
def test_hangs(): time.sleep(60)
def test_last(): pass
"""


@pytest.mark.parametrize(
    "spread",
    [pytest.param((), id="one-process"), pytest.param(("-n", "2"), id="xdist", marks=pytest.mark.slow)],
)
def test_a_crash_and_a_hang_cost_one_test_each(tmp_path, gpu_verify, spread):
    """And what an earlier try had found is not run again."""
    file = tmp_path / "test_of_a_gpu.py"
    file.write_text(TESTS, encoding="utf-8")
    command = (*gpu_verify.PYTEST, *spread, "-c", "/dev/null", "--rootdir", str(tmp_path), str(file))
    stage = gpu_verify.Stage("stage", 240, 3, command)
    before = [{"test": "test_of_a_gpu.py::test_first", "outcome": "passed", "stage": "stage"}]
    *rows, end = gpu_verify.run(stage, "cpu", False, gpu_verify.Clock(240), before)
    outcomes = {row["test"].partition("::")[2]: row["outcome"] for row in rows}
    assert outcomes == {
        "test_first": "passed",
        "test_crashes": "failed",
        "test_hangs": "failed",
        "test_last": "passed",
    }
    assert len(rows) == 4
    assert end["outcome"] == "failed"
    assert rows[0] is before[0]
    if not spread:  # where it hung
        assert "Timeout" in next(row["why"] for row in rows if "hangs" in row["test"])


def test_a_stage_past_its_limit_is_cut_and_says_where(tmp_path, gpu_verify):
    file = tmp_path / "test_slow.py"
    file.write_text(
        "import time\ndef test_first(): pass\ndef test_slow(): time.sleep(60)\n", encoding="utf-8"
    )
    command = (*gpu_verify.PYTEST, "-c", "/dev/null", "--rootdir", str(tmp_path), str(file))
    first, end = gpu_verify.run(gpu_verify.Stage("s", 6, 60, command), "cpu", False, gpu_verify.Clock(60))
    assert first["test"] == "test_slow.py::test_first"
    assert end["outcome"] == "out of time"
    assert "in test_slow.py::test_slow" in end["why"]


def test_what_a_test_measures_is_in_its_row(tmp_path, gpu_verify):
    file = tmp_path / "test_speed.py"
    file.write_text("def test_speed(record_property): record_property('ms', 1.5)\n", encoding="utf-8")
    command = (*gpu_verify.PYTEST, "-c", "/dev/null", "--rootdir", str(tmp_path), str(file))
    row, end = gpu_verify.run(gpu_verify.Stage("s", 60, 60, command), "cpu", False, gpu_verify.Clock(60))
    assert (row["ms"], row["outcome"], end["outcome"]) == (1.5, "passed", "passed")


def test_every_stage_tests_something_that_is_there(gpu_verify):
    every = {stage.name: stage for stage in gpu_verify.stages(1, "abc")}
    named = [word for stage in every.values() for word in stage.command + stage.whole if word.endswith(".py")]
    assert "tests/device/test_engines.py" in named
    assert all((SCRIPT.parents[1] / word).is_file() for word in named)
    (row,) = gpu_verify.run(every["engines"], "cpu", False, gpu_verify.Clock(60))
    assert row["outcome"] == "cannot run here"
    assert "needs a GPU to be loaded" in row["why"]


def test_what_cannot_run_says_why(gpu_verify):
    stage = gpu_verify.Stage("missing", 5, 5, ("no-such-program",))
    (row,) = gpu_verify.run(stage, "cpu", False, gpu_verify.Clock(60))
    assert row == {"outcome": "cannot run here", "why": "there is no no-such-program"}
    stage = gpu_verify.Stage("late", 5, 5, (sys.executable,))
    (row,) = gpu_verify.run(stage, "cpu", False, gpu_verify.Clock(0))
    assert (row["outcome"], row["why"]) == ("out of time", "nothing was left of the budget")
