"""Everything that only a GPU can tell, in one resumable command, the most telling first.

    python tools/gpu_verify.py --quick              a few tests of each stage: does the command work here?
    python tools/gpu_verify.py --budget-s 540       everything, until the time is over; call it again

Stages: probe the machine; one call of every op on every backend; the whole grid of contract tests;
determinism and poisoned memory; hidden synchronisation, CUDA graphs and torch.compile on other
streams; a TensorRT engine; compute-sanitizer on tiny shapes; benchmarks. After every stage the results are
written to benchmarks/results/<gpu>-<commit>.jsonl (under another name, then renamed). Called again, the
command goes on with what is not finished: stages that ended stay, and so do the tests that ended in a
stage that was cut. A stage that fails does not stop the next, nor does a test that hangs or takes its
process down stop the other tests.

The tests are those of tests/, on the device that RMD_TEST_DEVICE names. `--device cpu` runs the same
stages on the CPU backends, so that nothing in here fails first on the day there is a GPU. docs/gpu.md
says how to go about it on a machine that is lent for minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "verify_plugin", "-p", "no:cacheprovider")
SANITIZER = ("compute-sanitizer", "--error-exitcode", "1", "--target-processes", "all")
KERNELS = ("tests/device/test_determinism.py", "-k")  # under compute-sanitizer: twice, and poisoned
FEW = ("-k", "tiny and bfloat16 and (ddpm or graph)")
ENDED = ("passed", "failed", "cannot run here")
NO_TESTS_LEFT = 5  # pytest's exit code
Row = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    name: str
    limit_s: float  # of the budget, at most
    test_s: float  # for one test
    command: tuple[str, ...]
    whole: tuple[str, ...] = ()  # more arguments: what is tested
    quick: tuple[str, ...] | None = None  # the same with --quick, which leaves out a stage without
    environment: tuple[tuple[str, str], ...] = ()
    not_on_a_cpu: str = ""  # why


def stages(workers: int, commit: str) -> tuple[Stage, ...]:
    # Several processes compile kernels at the same time, which is what takes long the first time.
    spread = ("-n", str(workers)) if workers > 2 and find_spec("xdist") else ()
    tests, alone = (*PYTEST, *spread), (("OMP_NUM_THREADS", "1"),) if spread else ()
    streams = "tests/device/test_streams.py", "tests/device/test_chain.py"
    contracts = ("tests/ops/test_contracts.py", "tests/device/test_forward.py", "tests/device/test_ddpm.py")
    bench = (*PYTEST, "benchmarks", "--commit", commit)
    apart = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)  # or memory goes on past the end of a tensor
    return (
        Stage("smoke", 150, 120, (*tests, "tests/device/test_smoke.py"), quick=FEW, environment=alone),
        Stage("contracts", 240, 120, (*tests, *contracts), quick=("-k", "one-node"), environment=alone),
        Stage(
            "determinism", 90, 60, (*tests, "tests/device/test_determinism.py"), quick=FEW, environment=alone
        ),
        Stage(
            "streams", 150, 120, (*tests, *streams), quick=("-k", "tiny and ddpm"),
            not_on_a_cpu="a CPU has no streams, no CUDA graphs and nothing to wait for",
        ),
        Stage(
            "engines", 240, 200, (*PYTEST, "tests/device/test_engines.py"), quick=("-k", "loads"),
            not_on_a_cpu="an engine needs a GPU to be loaded; `make engines` builds it without one",
        ),
        *(
            Stage(
                tool, 150, 140, (*SANITIZER, "--tool", tool, *PYTEST),
                (*KERNELS, "tiny and (native or triton)"), (*KERNELS, "tiny and native and bfloat16"),
                apart, "it watches CUDA kernels; `make fuzz` watches those of the CPU",
            )
            for tool in ("memcheck", "racecheck", "initcheck")
        ),
        Stage(
            "benchmarks", 540, 300, bench, ("--seconds", "4", "-k", "not follow"),
            ("--seconds", "0.1", "-k", "overhead"),
        ),
        Stage("curves", 540, 300, bench, ("--seconds", "4", "-k", "follow")),
    )  # fmt: skip


class Clock:
    """Time until the budget is spent, or until somebody wants the command to stop."""

    def __init__(self, budget_s: float) -> None:
        self.deadline = time.monotonic() + budget_s

    def stop(self, *signal_and_frame: Any) -> None:
        """The stage that runs is cut and noted, the others are left for the next time."""
        self.deadline = 0.0

    def left(self) -> float:
        return self.deadline - time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget-s", type=float, default=540, help="seconds in all (default 540)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", default=commit(), help="what to call this tree where there is no git")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone, done before or not")
    parser.add_argument("--quick", action="store_true", help="a few tests of each, under a name of their own")
    arguments = parser.parse_args()
    clock = Clock(arguments.budget_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, clock.stop)
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda and torch sees no GPU; --device cpu runs the CPU backends")
    every = stages(workers(arguments.device), arguments.commit)
    if arguments.quick:
        every = tuple(stage for stage in every if stage.quick is not None)
    unknown = set(arguments.only or ()) - {stage.name for stage in every}
    if unknown:
        parser.error(f"--only is {sorted(unknown)}, expected some of {[stage.name for stage in every]}")

    make_kernels_importable()
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", name_of(arguments.device)).strip("-")
    quick = "-quick" if arguments.quick else ""
    results = Results(arguments.results / f"{gpu}-{arguments.commit}{quick}.jsonl")
    if not results.finished("probe"):
        results.add("probe", probe(arguments.device))
    for stage in every:
        if stage.name in arguments.only if arguments.only else not results.finished(stage.name):
            print(f"{stage.name} ...", flush=True)
            before = [] if arguments.only else results.cut_short(stage.name)
            results.add(stage.name, run(stage, arguments.device, arguments.quick, clock, before))
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


def name_of(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else platform.machine() + "-cpu"


def workers(device: str) -> int:
    """Test processes: one a core, and on a GPU none without 4 GiB of its memory."""
    import torch

    cores = os.cpu_count() or 1
    return cores if device == "cpu" else min(cores, torch.cuda.mem_get_info()[1] >> 32)


def probe(device: str) -> list[Row]:
    """Who and what, the two limits that all else is measured against, and which kernels cannot run."""
    import torch

    from robustmdiff import _native

    n = 8192 if device == "cuda" else 256  # the CPU only tries the command
    copied = torch.randn(2**28 if device == "cuda" else 2**20, device=device)
    into = torch.empty_like(copied)
    row: Row = {
        "device": name_of(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "copy_GB_per_s": round(8e-9 * copied.numel() / seconds(lambda: into.copy_(copied), device), 1),
    }
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(n, n, device=device).to(dtype)
        row[f"matmul_{str(dtype)[6:]}_TFLOP_per_s"] = round(
            2e-12 * n**3 / seconds(lambda x=x: x @ x, device), 2
        )
    missing = _native.cuda_reason if device == "cuda" else _native.reason
    if find_spec("triton"):
        import triton

        row["triton"] = triton.__version__
    elif device == "cuda":
        missing = missing or "triton is not installed"
    # Their tests are skipped, and nobody should take that for green.
    return [row, outcome("failed", why=missing) if missing else outcome("passed")]


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


def outcome(word: str, **more: Any) -> Row:
    return {"outcome": word, **more}


def run(stage: Stage, device: str, quick: bool, clock: Clock, before: Iterable[Row] = ()) -> list[Row]:
    """One row per test, those of an earlier try first, and last the outcome of the stage."""
    if stage.not_on_a_cpu and device == "cpu":
        return [outcome("cannot run here", why=stage.not_on_a_cpu)]
    if shutil.which(stage.command[0]) is None:
        return [outcome("cannot run here", why=f"there is no {stage.command[0]}")]
    start, deadline = time.monotonic(), time.monotonic() + stage.limit_s
    rows, word, why = list(before), "out of time", "nothing was left of the budget"
    with tempfile.TemporaryDirectory() as folder:
        attempt = Attempt(stage, device, quick, Path(folder))
        while clock.left() > 5:
            code = attempt.run(rows, lambda: min(clock.left(), deadline - time.monotonic()))
            found, unended = attempt.found()
            rows += found
            if code is None:
                why = " ".join(["stopped after", str(round(time.monotonic() - start)), "s, in", *unended])
                break
            rows += [
                {"test": test, "outcome": "failed", "why": f"its process ended: {attempt.said()}"}
                for test in unended
            ]
            if not unended:  # otherwise again, with the tests that are left
                clean = code == 0 or (code == NO_TESTS_LEFT and before)
                red = any(row["outcome"] == "failed" for row in rows if "test" in row)
                word, why = ("passed", "") if clean and not red else ("failed", attempt.said())
                break
    counts = Counter(row["outcome"] for row in rows if "test" in row)
    return [*rows, outcome(word, seconds=round(time.monotonic() - start, 1), tests=dict(counts), why=why)]


class Attempt:
    """Runs the command of a stage, and reads what the plugin noted of its tests."""

    def __init__(self, stage: Stage, device: str, quick: bool, folder: Path) -> None:
        self.notes, self.done, self.output = (folder / name for name in ("notes", "done", "output"))
        self.command = [*stage.command, *(stage.quick or () if quick else stage.whole)]
        if "benchmarks" in stage.command:
            self.command += ["--results", str(self.notes)]  # which it appends to
        paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            **dict(stage.environment),
            "RMD_TEST_DEVICE": device,
            "RMD_VERIFY_NOTES": str(self.notes),
            "RMD_VERIFY_DONE": str(self.done),
            "RMD_VERIFY_TEST_S": str(stage.test_s),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self.environment.pop("PYTEST_XDIST_WORKER", None)  # where this file is itself tested in parallel

    def run(self, rows: list[Row], left: Callable[[], float]) -> int | None:
        """The exit code, or None: cut, with everything that the command had started."""
        self.done.write_text("\n".join(row["test"] for row in rows if "test" in row), encoding="utf-8")
        self.notes.write_text("", encoding="utf-8")
        with self.output.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, start_new_session=True,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            while process.poll() is None and left() > 0:
                time.sleep(0.05)
            code = process.poll()
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return code

    def found(self) -> tuple[list[Row], list[str]]:
        """The rows of tests and benchmarks, and the tests that began and did not end."""
        rows: dict[str, Row] = {}
        others, begun = [], []
        for line in self.notes.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a process that was killed
            if "begins" in row:
                begun.append(row["begins"])
            elif "test" not in row:
                others.append(row)
            elif rows.get(row["test"], row)["outcome"] != "failed":
                rows[row["test"]] = row
        return [*others, *rows.values()], [test for test in begun if test not in rows]

    def said(self) -> str:
        """What compute-sanitizer reports, where a test hung, and the end of the output."""
        lines = self.output.read_text(encoding="utf-8", errors="replace").splitlines()
        reports = [line for line in lines if line.startswith("=========")][:60]
        hung = [i for i, line in enumerate(lines) if line.startswith("Timeout (")][-1:]
        reports += [line for i in hung for line in lines[i : i + 12]]
        return "\n".join(["", *reports, *lines[-30:]])[:6000]


# What is kept


class Results:
    """The rows of all stages in one file, written anew after each stage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def add(self, stage: str, rows: list[Row]) -> None:
        kept = [row for row in self.rows if row["stage"] != stage]
        self.rows = kept + [{"stage": stage, **row} for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        new.replace(self.path)

    def ends(self) -> dict[str, Row]:
        return {row["stage"]: row for row in self.rows if "outcome" in row and "test" not in row}

    def finished(self, stage: str) -> bool:
        return self.ends().get(stage, {}).get("outcome") in ENDED

    def cut_short(self, stage: str) -> list[Row]:
        """What a stage that was cut had found, without its end."""
        return [row for row in self.rows if row["stage"] == stage and ("test" in row or "outcome" not in row)]

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
