"""The resources of every shipped GPU kernel, compiled without a GPU and compared with what is written down.

    python tools/ledger.py --check          # exit 1 on a spill, a lost pipeline, lost tensor cores, or growth
    python tools/ledger.py --write          # compile and write tools/ledger.json anew
    python tools/ledger.py --check masked_attention sm_90      # only lines with these words

A line is one kernel as it is launched in one situation (dtype, width, ...) for one architecture. The
absolute rules hold for every compiler; registers and shared memory are compared only with a ledger of
the same compiler, since another one allocates differently.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

LEDGER = Path(__file__).with_name("ledger.json")
MORE_REGISTERS = 8  # the growth that is still noise
MORE_SHARED = 1024  # bytes; less shared memory by more than that is a pipeline that has lost stages
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_120": 99 * 1024}  # bytes of one block


@dataclass(frozen=True)
class Resources:
    """What one kernel takes, read from its machine code."""

    registers: int  # a thread
    stack: int  # bytes a thread; more than 0 is a spill
    shared: int  # bytes a block
    cp_async: int  # instructions that fetch ahead (LDGSTS, and TMA loads)
    mma: int  # tensor-core instructions of a warp
    wgmma: int  # tensor-core instructions of a warp group


@dataclass(frozen=True)
class Line:
    """A compiled kernel and what it must be able to do."""

    name: str  # "masked_attention bfloat16 64: _forward"
    arch: str  # "sm_90"
    compiler: str  # "triton 3.9.0"
    resources: Resources
    pipelined: bool = False  # must fetch ahead
    tensor_cores: bool = False  # must multiply on tensor cores


def broken_rules(line: Line) -> Iterator[str]:
    """What is wrong whatever the ledger says."""
    r = line.resources
    if r.stack > 0:
        yield f"spills {r.stack} bytes a thread"
    if r.shared > SHARED_LIMIT.get(line.arch, r.shared):
        yield f"takes {r.shared} bytes of shared memory, {line.arch} has {SHARED_LIMIT[line.arch]}"
    if line.pipelined and r.cp_async == 0:
        yield "lost its pipeline: no cp.async"
    if line.tensor_cores and r.mma + r.wgmma == 0:
        yield "lost its tensor cores: no mma, no wgmma"


def growth(now: Resources, before: Resources) -> Iterator[str]:
    if now.registers > before.registers + MORE_REGISTERS:
        yield f"takes {now.registers} registers, was {before.registers}"
    if now.shared > before.shared + MORE_SHARED:
        yield f"takes {now.shared} bytes of shared memory, was {before.shared}"
    if before.cp_async > 0 and now.shared < before.shared - MORE_SHARED:
        yield f"fetches less far ahead: {now.shared} bytes of shared memory, was {before.shared}"
    for kind in ("cp_async", "wgmma"):
        if getattr(now, kind) == 0 < getattr(before, kind):
            yield f"has no {kind}, had {getattr(before, kind)}"


def compare(lines: list[Line], ledger: dict, whole: bool) -> list[str]:
    """Everything that --check complains about; `whole`: a line of the ledger that is gone is one of them."""
    wrong = []
    for line in lines:
        problems = list(broken_rules(line))
        known = ledger.get(line.name, {}).get(line.arch)
        if known is None:
            problems.append("is not in the ledger; run `python tools/ledger.py --write`")
        elif known["compiler"] == line.compiler:
            problems += growth(line.resources, Resources(**known["resources"]))
        wrong += [f"{line.name} {line.arch}: {problem}" for problem in problems]
    if whole:
        found = {(line.name, line.arch) for line in lines}
        gone = [(name, arch) for name in ledger for arch in ledger[name] if (name, arch) not in found]
        wrong += [f"{name} {arch}: is in the ledger, but nothing compiles it any more" for name, arch in gone]
    return wrong


def written(lines: list[Line]) -> str:
    """The ledger as JSON, a text line for each of its lines."""
    rows: dict[str, list[str]] = {}
    for line in sorted(lines, key=lambda line: (line.name, line.arch)):
        entry = {"compiler": line.compiler, "resources": asdict(line.resources)}
        rows.setdefault(line.name, []).append(f"  {json.dumps(line.arch)}: {json.dumps(entry)}")
    kernels = [f" {json.dumps(name)}: {{\n" + ",\n".join(found) + "\n }" for name, found in rows.items()]
    return "{\n" + ",\n".join(kernels) + "\n}\n"


def table(lines: list[Line]) -> str:
    rows = [("kernel", "arch", "regs", "stack", "shared", "cp.async", "mma", "wgmma")]
    for line in lines:
        rows.append((line.name, line.arch, *(str(n) for n in asdict(line.resources).values())))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="compare with tools/ledger.json")
    action.add_argument("--write", action="store_true", help="write tools/ledger.json")
    action.add_argument("--show", action="store_true", help="compile and print, compare with nothing")
    parser.add_argument("words", nargs="*", help="only the lines that hold all of these words")
    options = parser.parse_args()
    if options.write and options.words:
        parser.error("--write takes no words: the ledger is written whole")

    import ledger_cuda
    import ledger_triton

    sources = (ledger_triton, ledger_cuda)
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
