from __future__ import annotations

import pytest

from robustmdiff import _native

LEVELS = ("scalar", "avx2", "avx512")


@pytest.fixture(scope="session", autouse=True)
def _native_is_there():
    assert _native.reason is None, _native.reason


@pytest.fixture(scope="session")
def levels() -> tuple[str, ...]:
    """The instruction sets of this machine."""
    from robustmdiff import _host

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RMD_CPU_ISA", raising=False)
        return LEVELS[: LEVELS.index(_host.cpu_isa()) + 1]


@pytest.fixture(params=LEVELS)
def isa(request, monkeypatch, levels) -> str:
    if request.param not in levels:
        pytest.skip(f"this machine has no {request.param}")
    monkeypatch.setenv("RMD_CPU_ISA", request.param)
    return request.param
