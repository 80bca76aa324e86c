"""The situations in which every backend of every attention op is tested, on the CPU or on the device
that RMD_TEST_DEVICE names."""

from __future__ import annotations

from typing import Any

import pytest

from robustmdiff.ops.dispatch import BackendError
from robustmdiff.testing import DEVICE, all_cases, backends_under_test

CASES = all_cases()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """On a GPU a backend may decline, and the test is skipped in its words."""
    try:
        return (yield)
    except BackendError as declined:
        if DEVICE == "cpu":
            raise
        pytest.skip(str(declined))


def pytest_generate_tests(metafunc: Any) -> None:
    """`case` and `backend`: every situation on every backend that its op has; `case` alone: every
    situation."""
    if "case" not in metafunc.fixturenames:
        return
    if "backend" not in metafunc.fixturenames:
        metafunc.parametrize("case", [pytest.param(c, id=f"{c.op}-{c.name}") for c in CASES])
        return
    metafunc.parametrize(
        ("case", "backend"),
        [pytest.param(c, b, id=f"{c.op}-{c.name}-{b}") for c in CASES for b in backends_under_test(c.op)],
    )
