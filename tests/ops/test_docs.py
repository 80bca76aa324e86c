"""The examples of docs/ops run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustmdiff.testing import OPS

PAGES = Path(__file__).parents[2] / "docs" / "ops"


@pytest.mark.parametrize("op", OPS)
def test_the_example_runs(op):
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / f"{op}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
