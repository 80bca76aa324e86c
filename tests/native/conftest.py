from __future__ import annotations

import subprocess
import sys

import pytest

from robustmdiff import _native

LEVELS = ("scalar", "avx2", "avx512")


def available() -> tuple[str, ...]:
    """The instruction sets of this machine; asked in another process, whose environment is clean."""
    code = "from robustmdiff import _host; print(_host.cpu_isa())"
    best = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={}, check=True)
    return LEVELS[: LEVELS.index(best.stdout.strip()) + 1]


@pytest.fixture(scope="session", autouse=True)
def _native_is_there():
    assert _native.reason is None, _native.reason


@pytest.fixture(scope="session")
def levels() -> tuple[str, ...]:
    return available()


@pytest.fixture(params=LEVELS)
def isa(request, monkeypatch, levels) -> str:
    if request.param not in levels:
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setenv("RMD_CPU_ISA", request.param)
    return request.param
