"""A line of the ledger: what one kernel takes, what it must not, and how two ledgers differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

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
            problems.append("is not in the ledger; run `python -m tools.ledger --write`")
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
