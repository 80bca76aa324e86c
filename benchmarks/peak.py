"""The peak of the CPU's arithmetic: a loop of multiply-adds that touches no memory."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

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
    width = int(FLAGS[isa][-1].split("=")[1])
    return 2.0 * width * CHAINS * ROUNDS * threads


def run(isa: str, threads: int) -> None:
    function = library(isa).multiply_add
    function.argtypes, function.restype = (ctypes.c_int64, ctypes.c_int), ctypes.c_float
    function(ROUNDS, threads)
