"""The resources of every shipped GPU kernel, compiled without a GPU and compared with what is written down.

    python -m tools.ledger --check          # exit 1 on a spill, a lost pipeline, lost tensor cores, or growth
    python -m tools.ledger --write          # compile and write tools/ledger/ledger.json anew
    python -m tools.ledger --check masked_attention sm_90      # only lines with these words

A line is one kernel as it is launched in one situation (dtype, width, ...) for one architecture. The
absolute rules hold for every compiler; registers and shared memory are compared only with a ledger of
the same compiler, since another one allocates differently.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tools.ledger import cuda, triton
from tools.ledger.lines import broken_rules, compare, table, written

LEDGER = Path(__file__).with_name("ledger.json")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with tools/ledger/ledger.json")
    action.add_argument("--write", action="store_true", help="write tools/ledger/ledger.json")
    action.add_argument("--show", action="store_true", help="compile and print, compare with nothing")
    parser.add_argument("words", nargs="*", help="only the lines that hold all of these words")
    options = parser.parse_args()
    if options.write and options.words:
        parser.error("--write takes no words: the ledger is written whole")

    sources = (triton, cuda)
    absent = [f"{source.__name__} skipped: {source.missing()}" for source in sources if source.missing()]
    lines = [line for source in sources if not source.missing() for line in source.lines(options.words)]
    print(table(lines))
    print("\n".join(absent))
    if options.show:
        return 0
    if options.write:
        if absent:
            print("not written: the ledger needs every compiler")
            return 1
        LEDGER.write_text(written(lines), encoding="utf-8")
        wrong = [f"{line.name} {line.arch}: {problem}" for line in lines for problem in broken_rules(line)]
    else:
        ledger = json.loads(LEDGER.read_text(encoding="utf-8"))
        wrong = compare(lines, ledger, whole=not options.words and not absent)
    print("\n".join(wrong) or f"{len(lines)} kernels keep to the ledger")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
