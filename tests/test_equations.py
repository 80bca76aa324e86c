"""docs/concepts.md: each equation of the paper stands in one function, whose docstring names it."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "concepts.md"
SYMBOLS = (
    "A_med", "Z(m)", "q", "mu_theta", "L_diff", "p_mask", "w_c", "L_cons", "L_total", "p(y | Z)", "A_ic",
)  # fmt: skip
ROW = re.compile(r"^\| (.+?) \| .+ \| \[`([\w.]+)`\]\((\S+)\) \|$", re.MULTILINE)
TABLE = {
    symbol.replace("\\|", "|"): (name, path)
    for symbol, name, path in ROW.findall(PAGE.read_text(encoding="utf-8"))
}


def test_the_table_has_the_papers_equations():
    assert tuple(TABLE) == SYMBOLS


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_an_equation_stands_in_the_function_that_its_link_names(symbol):
    name, path = TABLE[symbol]
    file = (PAGE.parent / path).resolve()
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    function = reduce(getattr, name.split("."), module)
    assert inspect.isfunction(function)
    assert Path(inspect.getsourcefile(function)) == file
    assert re.search(rf"(?<!\w){re.escape(symbol)}(?!\w)", inspect.getdoc(function) or ""), inspect.getdoc(
        function
    )
