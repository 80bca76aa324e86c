"""The op of docs/adding_an_op.md, as it is printed there, keeps the contracts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

import robustmdiff.ops
import robustmdiff.testing.cases
from robustmdiff import explain
from robustmdiff.ops.dispatch import Op
from robustmdiff.testing import backends_under_test, check_contracts

PAGE = Path(__file__).parents[2] / "docs" / "adding_an_op.md"
FILES = {
    "robustmdiff/ops/centre/arguments.py",
    "robustmdiff/ops/centre/definition.py",
    "robustmdiff/ops/centre/__init__.py",
    "robustmdiff/testing/cases/centre.py",
}


@pytest.fixture
def written(tmp_path, monkeypatch) -> Iterator[set[str]]:
    """The files of the page in a folder that Python finds beside the package."""
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in found:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for package in (robustmdiff.ops, robustmdiff.testing.cases):
        folder = tmp_path / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield {name for name, _ in found}
    Op.registry.pop("centre", None)
    for name in [name for name in sys.modules if ".centre" in name and name.startswith("robustmdiff.")]:
        del sys.modules[name]


def test_an_op_of_four_files_keeps_the_contracts(written):
    assert written == FILES
    cases = import_module("robustmdiff.testing.cases.centre").cases()
    for case in cases:
        for backend in backends_under_test("centre"):
            check_contracts(case, backend)
    x, present = torch.tensor([[1.0], [torch.nan], [3.0]]), torch.tensor([True, False, True])
    centre = sys.modules["robustmdiff.ops.centre"].centre
    assert centre(x, present).tolist() == [[-1], [0], [1]]
    assert explain("centre", x, present).chosen == "torch"
    with pytest.raises(ValueError, match=r"present is torch.bool \[2\] on cpu, expected torch.bool \[3\]"):
        centre(x, present[:2])


def test_the_contracts_find_what_breaks_them(written, monkeypatch):
    cases = import_module("robustmdiff.testing.cases.centre").cases()
    op = Op.registry["centre"]

    def reads_absent(a):
        return (a.x - a.x.mean(0)) * a.present[:, None]

    monkeypatch.setattr(op, "backends", (type(op.backends[0])("torch", reads_absent),))
    with pytest.raises(AssertionError):
        check_contracts(cases[0], "torch")
