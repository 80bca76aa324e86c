"""Every example runs on the CPU, shows the same output as the model it changes, and stays short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
NEEDS = {"bert": "transformers", "graph_transformer": "torch_geometric", "unet": "diffusers"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_shows_the_same_output(path, capsys):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    runpy.run_path(str(path), run_name="__main__")  # each compares by itself and raises if they differ
    assert "difference" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
