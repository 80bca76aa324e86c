"""The pytest plugin of gpu_verify.py (`-p verify_plugin`): every test noted as it begins and as it ends.

    RMD_VERIFY_NOTES    JSONL to append to: {"begins": test} and {"test": ..., "outcome": ...}
    RMD_VERIFY_DONE     the tests that ended in an earlier try, one a line: they are not run again
    RMD_VERIFY_TEST_S   seconds for one test; a process whose test takes longer ends, as after a crash

Under xdist the controller notes and the workers run. A worker that ends is replaced, and its test has
failed; without xdist gpu_verify.py starts pytest anew with the tests that are left.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTES, DONE, TEST_S = "RMD_VERIFY_NOTES", "RMD_VERIFY_DONE", "RMD_VERIFY_TEST_S"
WORKER = "PYTEST_XDIST_WORKER" in os.environ
OUTPUT = os.dup(2)  # before pytest captures what is written


def note(row: dict[str, Any]) -> None:
    with open(os.environ[NOTES], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    file = Path(os.environ[DONE])
    done = set(file.read_text(encoding="utf-8").splitlines()) if file.exists() else set()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logstart(nodeid: str) -> None:
    if not WORKER:
        note({"begins": nodeid})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if WORKER or not (report.when == "call" or report.outcome != "passed"):
        return
    why = "" if report.outcome == "passed" else str(report.longrepr)[-1500:]
    row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3), "why": why}
    note(row | dict(report.user_properties))  # what the test measured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Runs where the test runs. A kernel that never returns holds the GPU until its process ends."""
    faulthandler.dump_traceback_later(float(os.environ[TEST_S]), exit=True, file=OUTPUT)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        if _broken():
            os._exit(1)  # after an illegal access every later call in this process would fail too


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What a kernel does wrong is told to the test that launched it, not to a later one."""
    result = yield
    if _uses_cuda():
        import torch

        torch.cuda.synchronize()
    return result


def _uses_cuda() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _broken() -> bool:
    if not _uses_cuda():
        return False
    import torch

    try:
        torch.cuda.synchronize()
    except Exception:  # whichever error a dead context raises
        return True
    return False
