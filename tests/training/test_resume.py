"""A run that is killed or interrupted, and resumed, gives the numbers of one that never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robustmdiff.training.checkpoint import load_checkpoint

TOY = Path(__file__).with_name("toy.py")
STEPS = 72


def start(out_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOY), str(out_dir), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def lines(out_dir: Path) -> int:
    path = out_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    process = start(out_dir)
    assert process.wait(120) == 0, process.stderr.read()
    return out_dir


def assert_same_run(a: Path, b: Path) -> None:
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    for name in ("last.safetensors", "best.safetensors"):
        one, other = load_checkpoint(a / name), load_checkpoint(b / name)
        assert one.step == other.step
        assert set(one.tensors) == set(other.tensors)
        for key, value in one.tensors.items():
            assert torch.equal(value, other.tensors[key]), (name, key)
    assert load_checkpoint(a / "last.safetensors").step == STEPS


def test_killed_at_any_moment_and_resumed(uninterrupted, tmp_path):
    """kill -9 before the first checkpoint, between two, and wherever it hits."""
    for number, enough in enumerate([1, 20, 41]):
        process = start(tmp_path, *["--resume"] * (number > 0))
        wait_for(lambda: lines(tmp_path) >= enough, process)  # noqa: B023
        time.sleep(0.017 * number)
        process.kill()
        process.wait()
    assert lines(tmp_path) < lines(uninterrupted)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')  # a line cut off, as a crash may leave it
    process = start(tmp_path, "--resume")
    assert process.wait(120) == 0, process.stderr.read()
    assert_same_run(uninterrupted, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_and_resumed(uninterrupted, tmp_path, number, code):
    process = start(tmp_path)
    wait_for(lambda: lines(tmp_path) >= 10, process)
    process.send_signal(number)
    assert process.wait(60) == code
    told = process.stderr.read()
    step = load_checkpoint(tmp_path / "last.safetensors").step
    assert f"stopped after step {step} of {STEPS}, saved in" in told
    assert "--resume" in told
    assert "Traceback" not in told
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == step  # nothing that was computed is lost
    process = start(tmp_path, "--resume")
    assert process.wait(120) == 0, process.stderr.read()
    assert_same_run(uninterrupted, tmp_path)
