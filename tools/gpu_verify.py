"""Everything that only a GPU can tell, in one resumable command, the most telling first.

    python tools/gpu_verify.py --budget-s 540

Stages: probe the machine; one call of every op on every backend; the whole grid of contract tests;
determinism and poisoned memory; hidden synchronisation, CUDA graphs and torch.compile on other
streams; compute-sanitizer on tiny shapes; benchmarks. After every stage the results are written to
benchmarks/results/<gpu>-<commit>.jsonl (under another name, then renamed). Called again, the command
goes on with the stages that are not finished. A stage that fails does not stop the next.

The tests are those of tests/, on the device that RMD_TEST_DEVICE names. `--device cpu` runs the same
stages on the CPU backends, so that nothing in here fails first on the day there is a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "gpu_verify", "-p", "no:cacheprovider")
SANITIZER = ("compute-sanitizer", "--error-exitcode", "1", "--target-processes", "all")
TINY = ("tests/device/test_smoke.py", "-k", "tiny and float32")
LOG = "RMD_VERIFY_LOG"
DONE = ("passed", "failed", "cannot run here")
Row = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    name: str
    limit_s: float  # of the budget, at most
    command: tuple[str, ...]
    cuda: bool = False  # means something on a GPU only


def stages(workers: int, commit: str) -> tuple[Stage, ...]:
    benchmarks = ("benchmarks", "--seconds", "4", "--commit", commit, "--results", str(log("benchmarks")))
    spread = ("-n", str(workers), "--dist", "loadfile") if workers > 2 else ()
    return (
        Stage("smoke", 150, (*PYTEST, "tests/device/test_smoke.py")),
        Stage("contracts", 240, (*PYTEST, *spread, "tests/ops")),
        Stage("determinism", 60, (*PYTEST, "tests/device/test_determinism.py")),
        Stage("streams", 120, (*PYTEST, "tests/device/test_streams.py"), cuda=True),
        Stage("memcheck", 120, (*SANITIZER, *PYTEST, *TINY), cuda=True),
        Stage("initcheck", 120, (*SANITIZER, "--tool", "initcheck", *PYTEST, *TINY), cuda=True),
        Stage("benchmarks", 600, (*PYTEST, *benchmarks)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget-s", type=float, default=540, help="seconds in all (default 540)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", default=commit(), help="what to call this tree where there is no git")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone, done before or not")
    arguments = parser.parse_args()
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda and torch sees no GPU; --device cpu runs the CPU backends")
    every = stages(os.cpu_count() or 1, arguments.commit)
    unknown = set(arguments.only or ()) - {stage.name for stage in every}
    if unknown:
        parser.error(f"--only is {sorted(unknown)}, expected some of {[stage.name for stage in every]}")

    deadline = time.monotonic() + arguments.budget_s
    make_kernels_importable()
    machine = probe(arguments.device)
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", machine["device"]).strip("-")
    results = Results(arguments.results / f"{gpu}-{arguments.commit}.jsonl")
    results.add("probe", [machine, outcome("passed")])
    for stage in every:
        if stage.name in arguments.only if arguments.only else not results.finished(stage.name):
            print(f"{stage.name} ...", flush=True)
            results.add(stage.name, run(stage, arguments.device, deadline - time.monotonic()))
    print(results.summary())
    return int(results.failed())


# The machine


def commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"


def make_kernels_importable() -> None:
    """kernels/ is installed as robustmdiff.kernels; a tree that is not installed gets a link."""
    sys.path.insert(0, str(ROOT))
    if find_spec("robustmdiff.kernels") is None:
        (ROOT / "robustmdiff" / "kernels").symlink_to("../kernels", target_is_directory=True)


def probe(device: str) -> Row:
    """Who and what, and the two limits that all else is measured against."""
    import torch

    n = 8192 if device == "cuda" else 1024
    copied = torch.randn(2**28 if device == "cuda" else 2**24, device=device)
    into = torch.empty_like(copied)
    row: Row = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine() + "-cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "copy_GB_per_s": round(8e-9 * copied.numel() / seconds(lambda: into.copy_(copied), device), 1),
    }
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(n, n, device=device).to(dtype)
        row[f"matmul_{str(dtype)[6:]}_TFLOP_per_s"] = round(
            2e-12 * n**3 / seconds(lambda x=x: x @ x, device), 2
        )
    return row


def seconds(call: Callable[[], object], device: str) -> float:
    """The median of seven calls, after two."""
    import torch

    spent = []
    for _ in range(9):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return sorted(spent[2:])[3]


# A stage


def log(stage: str) -> Path:
    """Where the tests of a stage are noted; the benchmarks append their rows to it."""
    return ROOT / "build" / f"verify-{stage}.jsonl"


def outcome(word: str, **more: Any) -> Row:
    return {"outcome": word, **more}


def run(stage: Stage, device: str, left_s: float) -> list[Row]:
    """One row per test, and last the outcome of the stage."""
    if stage.cuda and device != "cuda":
        return [outcome("cannot run here", why="it is about CUDA")]
    if shutil.which(stage.command[0]) is None:
        return [outcome("cannot run here", why=f"there is no {stage.command[0]}")]
    if left_s < 5:
        return [outcome("out of time", why="nothing was left of the budget")]
    notes = log(stage.name)
    notes.parent.mkdir(exist_ok=True)
    notes.unlink(missing_ok=True)
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "RMD_TEST_DEVICE": device,
        LOG: str(notes),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    environment.pop("PYTEST_XDIST_WORKER", None)  # where this file is itself tested in parallel
    start, limit_s = time.monotonic(), min(left_s, stage.limit_s)
    try:
        done = subprocess.run(
            stage.command, cwd=ROOT, env=environment, timeout=limit_s, capture_output=True, text=True
        )
        word, tail = "passed" if done.returncode == 0 else "failed", done.stdout[-2000:] + done.stderr[-2000:]
    except subprocess.TimeoutExpired:
        word, tail = "out of time", f"stopped after {limit_s:.0f} s"
    rows = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    found = Counter(row["outcome"] for row in rows if "test" in row)
    spent = round(time.monotonic() - start, 1)
    return [*rows, outcome(word, seconds=spent, tests=dict(found), why="" if word == "passed" else tail)]


def pytest_runtest_logreport(report: Any) -> None:
    """This file is also the pytest plugin that notes each test as it ends (`-p gpu_verify`)."""
    ended = report.when == "call" or report.outcome != "passed"
    if not ended or LOG not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
        return
    why = "" if report.outcome == "passed" else str(report.longrepr)[-1500:]
    row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3), "why": why}
    with open(os.environ[LOG], "a") as file:
        file.write(json.dumps(row) + "\n")


# What is kept


class Results:
    """The rows of all stages in one file, written anew after each stage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def add(self, stage: str, rows: list[Row]) -> None:
        kept = [row for row in self.rows if row["stage"] != stage]
        self.rows = kept + [{"stage": stage, **row} for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        new.replace(self.path)

    def ends(self) -> dict[str, Row]:
        return {row["stage"]: row for row in self.rows if "outcome" in row and "test" not in row}

    def finished(self, stage: str) -> bool:
        return self.ends().get(stage, {}).get("outcome") in DONE

    def failed(self) -> bool:
        return any(row["outcome"] in ("failed", "out of time") for row in self.ends().values())

    def summary(self) -> str:
        """Short, as often only the end of an output comes back: the failures, then a line per stage."""
        red = [row for row in self.rows if "test" in row and row["outcome"] == "failed"]
        lines = [f"FAILED {row['test']}: {row['why'].strip().splitlines()[-1:]}" for row in red[:30]]
        for stage, row in self.ends().items():
            tests = ", ".join(f"{n} {word}" for word, n in row.get("tests", {}).items())
            why = " ".join(row.get("why", "").split())[-160:] if row["outcome"] != "passed" else ""
            lines.append(f"{stage:12} {row['outcome']:16} {row.get('seconds', 0):>6} s  {tests} {why}")
        return "\n".join([*lines, str(self.path)])


if __name__ == "__main__":
    sys.exit(main())
