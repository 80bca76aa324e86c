"""The order of the files: what takes longest comes first, so that no process waits for another at the end."""

from __future__ import annotations

import gc

import pytest

LONGEST = ("tests/kernels/", "tests/test_docs.py", "tests/ops/", "tests/cli/", "tests/experiment/")

gc.disable()  # while tests are collected; what torch, transformers and others make of classes is no garbage


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # or every full collection looks at a million objects again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((i for i, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no plots: to draw them takes most of a small evaluation, and tests/evaluation does."""
    monkeypatch.setattr("robustmdiff.evaluation.plots.draw", lambda results, folder: [])
