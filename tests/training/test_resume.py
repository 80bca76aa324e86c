"""A run that is killed or interrupted, and resumed, gives the numbers of one that never stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import toy

from robustmdiff.training.checkpoint import load_checkpoint

STEPS = 72


def start(out_dir: Path, resume: bool = False):
    return toy.start(toy.long_run, out_dir, resume, stderr=out_dir.with_suffix(".err"))


def told(out_dir: Path) -> str:
    return out_dir.with_suffix(".err").read_text(encoding="utf-8")


def finish(out_dir: Path, resume: bool = False) -> None:
    process = start(out_dir, resume)
    process.join(120)
    assert process.exitcode == 0, told(out_dir)


def wait_for_lines(out_dir: Path, enough: int, process) -> None:
    path, end = out_dir / "metrics.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < enough:
        assert process.is_alive(), told(out_dir)
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    finish(out_dir)
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
    out_dir = tmp_path / "run"
    for number, enough in enumerate([1, 20, 41]):
        process = start(out_dir, resume=number > 0)
        wait_for_lines(out_dir, enough, process)
        time.sleep(0.017 * number)
        process.kill()
        process.join()
    with (out_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 60, "lo')  # a line cut off, as a crash may leave it
    assert load_checkpoint(out_dir / "last.safetensors").step < STEPS
    finish(out_dir, resume=True)
    assert_same_run(uninterrupted, out_dir)


def test_interrupted_and_resumed(uninterrupted, tmp_path):
    out_dir = tmp_path / "run"
    for number, enough, code in [(signal.SIGINT, 10, 130), (signal.SIGTERM, 30, 143)]:
        process = start(out_dir, resume=enough > 10)
        wait_for_lines(out_dir, enough, process)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == code
        step = load_checkpoint(out_dir / "last.safetensors").step
        assert f"stopped after step {step} of {STEPS}, saved in {out_dir}" in told(out_dir)
        assert "--resume" in told(out_dir)
        assert "Traceback" not in told(out_dir)
        rows = [
            json.loads(line) for line in (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert max(row["step"] for row in rows) == step < STEPS  # nothing that was computed is lost
    finish(out_dir, resume=True)
    assert_same_run(uninterrupted, out_dir)
