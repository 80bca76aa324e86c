"""The peaks of the CPU: a loop of multiply-adds that touches no memory, and one that only loads."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from torch import Tensor

SOURCE = Path(__file__).with_name("peak.cpp")
CHAINS = 12  # as in peak.cpp
FLAGS = {
    "avx512": ("-mavx512f", "-mfma", "-DWIDTH=16"),
    "avx2": ("-mavx2", "-mfma", "-DWIDTH=8"),
}
ROUNDS = 200_000  # of a call: some milliseconds


@lru_cache
def library(isa: str) -> ctypes.CDLL:
    """peak.cpp for this instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / f"peak_{isa}.so"
        subprocess.check_call(
            [
                "g++",
                "-O2",
                "-fPIC",
                "-shared",
                "-fopenmp",
                "-ffp-contract=fast",
                *FLAGS[isa],
                SOURCE,
                "-o",
                built,
            ]
        )
        return ctypes.CDLL(str(built))


def instruction_sets() -> list[str]:
    """Those of this CPU that have a loop here, the widest first."""
    from robustmdiff import _host

    best = _host.cpu_isa()
    names = list(FLAGS)
    return names[names.index(best) :] if best in names else []


def operations(isa: str, threads: int) -> float:
    """Floating-point operations of one call of `run`."""
    return 2.0 * lanes(isa) * CHAINS * ROUNDS * threads


def lanes(isa: str) -> int:
    return int(FLAGS[isa][-1].split("=")[1])


def run(isa: str, threads: int) -> None:
    function = library(isa).multiply_add
    function.argtypes, function.restype = (ctypes.c_int64, ctypes.c_int), ctypes.c_float
    function(ROUNDS, threads)


def read(isa: str, x: Tensor, times: int) -> float:
    """The sum of x [n] float32, read so often, by one thread; without what is left of n by a round of the
    loop."""
    function = library(isa).add_up
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64), ctypes.c_float
    step = lanes(isa) * CHAINS
    found: float = function(x.data_ptr(), x.numel() // step * step, times)
    return found
