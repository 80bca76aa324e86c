"""The sampler of the second stage of kind "ddpm", 16 steps, at another commit and here, in turns.

    OMP_NUM_THREADS=1 python -m tools.sampler_then 0e13048

The other commit is checked out in a temporary folder, with the native code that is built here. Both draw the
same of the same networks, or nothing is timed. Processor time, since others may be computing.
"""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LATENT, MODALITIES, CLASSES, DRAWS, STEPS, ROUNDS = 40, 6, 8, 16, 16, 40
ASKED = {  # patients, and how many of a patient's draws are told the same class
    "1 patient, all draws told apart": (1, 1),
    "1 patient, all told the same": (1, DRAWS),
    "64 patients, all draws told apart": (64, 1),
    "64 patients, four told the same": (64, 4),
    "64 patients, all told the same": (64, DRAWS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit")
    commit = parser.parse_args().commit
    with tempfile.TemporaryDirectory() as folder:
        then = Path(folder) / "then"
        _git("worktree", "add", "--quiet", "--detach", str(then), commit)
        try:
            for library in (ROOT / "robustmdiff").glob("*.so"):
                shutil.copy(library, then / "robustmdiff")
            for what, (patients, alike) in ASKED.items():
                _print(what, *_in_turns(then, patients, alike))
        finally:
            _git("worktree", "remove", "--force", str(then))


def _git(*arguments: str) -> None:
    subprocess.check_call(["git", *arguments], cwd=ROOT)


def _in_turns(then: Path, patients: int, alike: int) -> list[list[float]]:
    """Seconds of each round, then and here."""
    command = [sys.executable, __file__, "--draw", str(patients), str(alike)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(tree)}, **pipes)
        for tree in (then, ROOT)
    ]
    try:
        drawn = [float(_said(each)) for each in both]
        if abs(drawn[0] / drawn[1] - 1) > 1e-5:
            raise SystemExit(f"their draws differ: {drawn}, summed")
        found: list[list[float]] = [[], []]
        for i in range(ROUNDS):
            for j in (0, 1) if i % 2 else (1, 0):
                both[j].stdin.write("again\n")
                both[j].stdin.flush()
                found[j].append(float(_said(both[j])))
        return found
    finally:
        for each in both:
            each.stdin.close()
            each.wait()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _print(what: str, then: list[float], here: list[float]) -> None:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(then, here, strict=True)], n=4)
    ms = [1e3 * statistics.median(each) for each in (then, here)]
    print(f"{what}: {ms[0]:.1f} ms then, {ms[1]:.2f} here; {middle:.1f} times ({low:.1f} to {high:.1f})")


def draw(patients: int, alike: int) -> None:
    """The sum of what is drawn, and for each line that comes the seconds of drawing it again."""
    import torch

    with torch.no_grad():
        call = _sampler(patients, alike)
        print(float(call().double().abs().sum()), flush=True)
        for _ in sys.stdin:
            calls = max(1, 16 // patients)
            start = time.process_time()
            for _ in range(calls):
                call()
            print((time.process_time() - start) / calls, flush=True)


def _sampler(patients: int, alike: int) -> Callable[[], Any]:
    import torch

    from robustmdiff.diffusion.schedule import Schedule
    from robustmdiff.forecast.ddpm import DDPMForecast
    from robustmdiff.ops import philox_key

    how: dict[str, Any] = {"schedule": Schedule(steps=STEPS)}
    if "labels" in inspect.signature(DDPMForecast).parameters:
        from robustmdiff.labels import EXCLUSIVE

        how["labels"] = EXCLUSIVE
    else:  # before there were `Labels`
        how["exclusive"] = True
    forecast = DDPMForecast(LATENT, MODALITIES, CLASSES, **how).eval()
    random = torch.Generator().manual_seed(0)
    for _, weight in sorted(forecast.network.named_parameters()):
        weight.copy_(torch.randn(weight.shape, generator=random) / (4 * weight.shape[-1]) ** 0.5)
    rows, key = patients * DRAWS, philox_key(3)
    x = torch.randn(rows, LATENT, generator=random)
    told = torch.randn(rows // alike, forecast.told_size, generator=random).repeat_interleave(alike, 0)
    ids = torch.arange(DRAWS).repeat(patients)
    if "x" in inspect.signature(forecast.residual).parameters:
        from robustmdiff.forecast.gaussian import Noise

        return lambda: forecast.residual(x, told, Noise(x, x, key), ids)
    return lambda: forecast.residual(x, told, key, ids)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--draw"]:
        draw(*map(int, sys.argv[2:]))
    else:
        main()
