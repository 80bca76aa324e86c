"""Every method on every data set, tuned alike, and the tables of docs/results.md from what was found.

    python -m tools.results                     # `make results`: what configs/results.yaml says
    python -m tools.results --only lgg cohort           # some studies; two processes may share a plan so
    python -m tools.results --plan PLAN.yaml --out FOLDER --records FOLDER
    python -m tools.results --tables            # only write the tables anew
    python -m tools.results --check             # exit 1 where a table is not what was recorded

It may be stopped at any moment, and goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.results import tables
from tools.results.plan import read_plan
from tools.results.work import run

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=ROOT / "configs" / "results.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "results", help="where the runs go")
    parser.add_argument("--records", type=Path, default=ROOT / "results", help="where what is found goes")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="STUDY", help="of the plan; all if not given"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--tables", action="store_true", help="run nothing")
    action.add_argument("--check", action="store_true", help="run nothing and write nothing")
    options = parser.parse_args(arguments)
    if not (options.tables or options.check):
        run(read_plan(options.plan), options.out, options.records, options.only)
    pages = sorted((ROOT / "docs").rglob("*.md"))
    stale = tables.stale(pages, options.records)
    for page, text in stale.items():
        print(("stale: " if options.check else "wrote ") + str(page.relative_to(ROOT)))
        if not options.check:
            page.write_text(text, encoding="utf-8")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
