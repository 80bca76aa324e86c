"""Time and memory. Every round runs each candidate and each limit once, in turning order.

What is compared is always of one round, so a machine that slows down slows everybody. A turn begins
with a call that is not timed, so that everybody finds the memory that his own last call gave back: what
others freed seconds ago has left the caches, or on a virtual machine even the machine.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.candidates import BACKWARD, FORWARD, TRAINING, Candidate, Tensors

PAST_THE_CACHE = 2**29  # bytes of inputs, used in turn
SHORTEST = 2e-3  # seconds that one turn lasts at least
LONG = 0.1  # seconds of a call that needs no second one to warm up
FEWEST = 3  # rounds of who is very slow
PREPARE = "prepare"

Turn = Callable[[int], dict[str, float]]  # how often to call -> seconds a call, by part
Samples = dict[str, dict[str, list[float]]]  # by name and part, the seconds of each round


def copies(tensors: Tensors) -> list[Tensors]:
    """Enough copies of the tensors that, taken in turn, none is still in the cache."""
    size = sum(x.numel() * x.element_size() for x in tensors.values())
    count = min(max(2, PAST_THE_CACHE // max(size, 1)), 16)
    return [{name: x.clone() for name, x in tensors.items()} for _ in range(count)]


def forward_turn(candidate: Candidate, sets: list[Tensors]) -> Turn:
    device, given = _device(sets), itertools.cycle(sets)

    def turn(calls: int) -> dict[str, float]:
        with torch.no_grad():
            start = now(device)
            for _ in range(calls):
                candidate(**next(given))
            middle = now(device)
            if candidate.prepare is None:
                return {FORWARD: (middle - start) / calls, PREPARE: 0.0}
            for _ in range(calls):
                candidate.prepare(**next(given))
            return {FORWARD: (middle - start) / calls, PREPARE: (now(device) - middle) / calls}

    return turn


def training_turn(candidate: Candidate, sets: list[Tensors], grad_out: Tensor) -> Turn:
    device = _device(sets)
    leaves = [{name: x.detach().requires_grad_() for name, x in tensors.items()} for tensors in sets]
    given = itertools.cycle(leaves)

    def turn(calls: int) -> dict[str, float]:
        start = now(device)
        done = [(candidate(**tensors), list(tensors.values())) for tensors in itertools.islice(given, calls)]
        middle = now(device)
        while done:
            out, wrt = done.pop()
            torch.autograd.grad(out, wrt, grad_out)
        end = now(device)
        return {TRAINING: (end - start) / calls, BACKWARD: (end - middle) / calls}

    return turn


def call_turn(call: Callable[[], object], part: str, device: str) -> Turn:
    def turn(calls: int) -> dict[str, float]:
        start = now(device)
        for _ in range(calls):
            call()
        return {part: (now(device) - start) / calls}

    return turn


def measure(turns: dict[str, Turn], seconds: float, rounds: tuple[int, int] = (5, 40)) -> Samples:
    """The seconds of each round, for about `seconds` in all and at least `rounds[0]` rounds.

    Who takes more than a tenth of `seconds` for one turn takes part in the first FEWEST rounds only.
    """
    calls: dict[str, int] = {}
    spent: dict[str, float] = {}
    for name, turn in turns.items():
        spent[name] = sum(turn(1).values())  # warm: compile, page in
        if spent[name] < LONG:
            spent[name] = sum(turn(1).values())
        calls[name] = max(1, round(SHORTEST / max(spent[name], 1e-7)))
        spent[name] *= 1 + calls[name]
    slow = {name for name in turns if spent[name] > max(seconds / 10, LONG)}
    left = seconds - FEWEST * sum(spent[name] for name in slow)
    each = sum(spent[name] for name in turns if name not in slow)
    count = int(min(max(rounds[0], left / max(each, 1e-7)), rounds[1]))
    samples: Samples = {name: {} for name in turns}
    names = list(turns)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(count):
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                if name in slow and round_ >= FEWEST:
                    continue
                turns[name](1)
                for part, found in turns[name](calls[name]).items():
                    samples[name].setdefault(part, []).append(found)
    finally:
        if collecting:
            gc.enable()
    return samples


def ratio(numerator: list[float], denominator: list[float]) -> list[float]:
    """Median of the ratios of each round that both took part in, and its 95 % bootstrap interval."""
    both = min(len(numerator), len(denominator))
    ratios = np.array(numerator[:both]) / np.array(denominator[:both])
    drawn = np.random.default_rng(0).integers(len(ratios), size=(1000, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], 1), [0.025, 0.975])
    return [significant(float(x)) for x in (np.median(ratios), low, high)]


def movement(limit: list[float]) -> float:
    """How far a limit moved within a run: the middle half of its rounds, relative to the median."""
    low, median, high = statistics.quantiles(limit, n=4, method="inclusive")
    return (high - low) / median


def significant(x: float, digits: int = 4) -> float:
    return float(f"{x:.{digits}g}")


def peak_mib(call: Callable[[], object], device: str) -> float | None:
    """MiB that a call holds at its largest beyond what was there before; None where nobody can tell.
    The call must have run before: what a first call sets up stays."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return None
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that taking it again is seen
        reset.write_text("5", encoding="utf-8")  # the high water mark starts anew
    except (OSError, AttributeError):
        return None
    before = _resident(status, "VmRSS")
    call()
    return round((_resident(status, "VmHWM") - before) / 1024, 1)


def _resident(status: Path, field: str) -> int:
    return next(
        int(line.split()[1])
        for line in status.read_text(encoding="utf-8").splitlines()
        if line.startswith(field)
    )


def now(device: str) -> float:
    """Seconds, once the device has done everything it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _device(sets: list[Tensors]) -> str:
    return next(iter(sets[0].values())).device.type
