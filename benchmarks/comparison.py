"""One workload, everybody who can compute it, and the rows that come of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.candidates import (
    BACKWARD,
    FORWARD,
    TRAINING,
    Candidate,
    Declined,
    Judge,
    Workload,
    WrongResult,
    attempt,
    grad_out_of,
    reason_of,
    results,
)
from benchmarks.limits import Limit, per_round
from benchmarks.measure import (
    PREPARE,
    Samples,
    Turn,
    call_turn,
    copies,
    forward_turn,
    measure,
    movement,
    peak_mib,
    ratio,
    significant,
    training_turn,
)

STEADY = 0.15  # a limit whose middle half of rounds spreads wider makes the run inconclusive

Row = dict[str, Any]
Makers = Mapping[str, Callable[..., Candidate]]
Check = Callable[[Candidate, bool], None]


def eligible(
    makers: Makers, workload: Workload, tiny: Workload, training: bool, check: Check
) -> tuple[dict[str, list[Candidate]], list[Declined]]:
    """Who may be timed at what: tried on a tiny input, then checked on the inputs to be timed."""
    tried = {name: attempt(name, lambda make=make: make(tiny), tiny.tensors) for name, make in makers.items()}
    torch.compiler.reset()  # what failed to compile, or compiled for many shapes, would stay uncompiled
    able: dict[str, list[Candidate]] = {FORWARD: [], TRAINING: []}
    declined = []
    for name, (passes, refusal) in tried.items():
        if refusal is not None:
            declined.append(refusal)
        if FORWARD not in passes:
            continue
        candidate = makers[name](workload)
        for kind in (TRAINING, FORWARD) if training and TRAINING in passes else (FORWARD,):
            try:
                check(candidate, kind == TRAINING)
            except Exception as error:  # what it could do on a tiny input it may not do on this one
                if candidate.ours and isinstance(error, WrongResult):
                    raise  # a peer that is wrong is listed as such; the others are still timed
                missing = (TRAINING, BACKWARD) if kind == TRAINING else (FORWARD,)
                declined.append(Declined(name, reason_of(error), missing))
                continue
            able[FORWARD].append(candidate)
            if kind == TRAINING:
                able[TRAINING].append(candidate)
            break
    return able, declined


def compare(
    workload: Workload,
    makers: Makers,
    tiny: Workload,
    limits: Sequence[Limit],
    *,
    seconds: float,
    training: bool = True,
    memory: bool = True,
    check: Check | None = None,
    traces: Path | None = None,
) -> tuple[list[Row], dict[str, Samples]]:
    """Rows of all candidates and passes, and the samples behind them by pass.

    check(candidate, gradients) raises WrongResult; by default against the workload's exact result.
    """
    check = check or Judge(workload, training).check
    able, declined = eligible(makers, workload, tiny, training, check)
    grad_out = grad_out_of(workload)
    rows: list[Row] = []
    samples: dict[str, Samples] = {}
    for kind in (FORWARD, TRAINING) if training else (FORWARD,):
        sets: dict[object, Any] = {}  # one for each layout: candidates with one layout share memory
        turns: dict[str, Turn] = {}
        for candidate in able[kind]:
            if candidate.arrange not in sets:
                sets[candidate.arrange] = copies(
                    {name: candidate.arrange(x) for name, x in workload.tensors.items()}
                )
            given = sets[candidate.arrange]
            turns[candidate.name] = (
                forward_turn(candidate, given)
                if kind == FORWARD
                else training_turn(candidate, given, candidate.arrange(grad_out))
            )
        for limit in limits:
            turns[limit.name] = call_turn(limit.call, limit.kind, workload.device)
        samples[kind] = measure(turns, seconds)
        for part in (FORWARD,) if kind == FORWARD else (TRAINING, BACKWARD):
            found = rows_of(workload, part, able[kind], limits, samples[kind])
            if memory and part != BACKWARD:
                for row, candidate in zip(found, able[kind], strict=True):
                    given = sets[candidate.arrange][0]
                    arranged = candidate.arrange(grad_out)
                    row["peak_mib"] = peak_mib(
                        lambda c=candidate, g=given, a=arranged, k=kind: results(c, g, a, k == TRAINING),
                        workload.device,
                    )
            rows += found
        if traces is not None:
            for candidate in able[kind]:
                if candidate.ours:
                    given = sets[candidate.arrange][0]
                    profile(traces, workload, kind, candidate, given, candidate.arrange(grad_out))
    rows += [
        {
            **_head(workload, part),
            "candidate": refusal.name,
            "verdict": "cannot run",
            "reason": refusal.reason,
        }
        for refusal in declined
        for part in refusal.passes
        if training or part == FORWARD
    ]
    return rows, samples


def rows_of(
    workload: Workload, part: str, candidates: Sequence[Candidate], limits: Sequence[Limit], samples: Samples
) -> list[Row]:
    """One row a candidate for one pass. Ratios are medians over rounds with a 95 % interval."""
    need = workload.need[part]
    binds, limit = per_round(limits, samples, need)
    moved = movement(limit)
    peers = [c.name for c in candidates if not c.ours]
    rows = []
    for candidate in candidates:
        spent = samples[candidate.name][part]
        prepare = samples[candidate.name].get(PREPARE)
        row = {
            **_head(workload, part),
            "candidate": candidate.name,
            "ours": candidate.ours,
            "ms": milliseconds(spent),
            "prepare_ms": None if prepare is None else milliseconds(prepare),
            "times_limit": ratio(spent, limit),
            "limit": binds,
            "limit_ms": milliseconds(limit),
            "limit_moved": significant(moved, 2),
            "need": need,
            "rounds": len(spent),
            "verdict": "measured" if moved <= STEADY else "inconclusive",
        }
        if candidate.ours:
            row["against"] = {peer: ratio(spent, samples[peer][part]) for peer in peers}
            row["against_prepared"] = {
                peer: ratio(_unprepared(samples[candidate.name], part), _unprepared(samples[peer], part))
                for peer in peers
                if any(samples[peer].get(PREPARE, ()))
            }
        rows.append(row)
    return rows


def _unprepared(of: dict[str, list[float]], part: str) -> list[float]:
    """The seconds of each round that are left without the preparation timed in that round."""
    return [spent - prepare for spent, prepare in zip(of[part], of[PREPARE], strict=True)]


def milliseconds(samples: list[float]) -> float:
    return significant(1e3 * sorted(samples)[len(samples) // 2])


def _head(workload: Workload, part: str) -> Row:
    return {
        "op": workload.op,
        "workload": workload.name,
        "dtype": str(workload.dtype).removeprefix("torch."),
        "pass": part,
    }


def not_here(op: str, workload: str, dtype: torch.dtype, reason: str) -> Row:
    """The row of a workload that this machine lacks the data for."""
    head = {"op": op, "workload": workload, "dtype": str(dtype).removeprefix("torch."), "pass": FORWARD}
    return {**head, "candidate": "all", "verdict": "not here", "reason": reason}


def profile(
    folder: Path, workload: Workload, kind: str, candidate: Candidate, given: Any, grad_out: Any
) -> None:
    """A Chrome trace of three calls: folder/<op>-<workload>-<pass>-<candidate>.json"""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(record_shapes=True, profile_memory=True) as profiler:
        for _ in range(3):
            results(candidate, given, grad_out, kind == TRAINING)
    name = "-".join((workload.op, workload.name, kind, candidate.name))
    profiler.export_chrome_trace(str(folder / ("".join(c if c.isalnum() else "-" for c in name) + ".json")))


def append(file: Path, rows: Sequence[Row], where: Row) -> None:
    """Add rows to a JSONL file, each with where and when it was measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row | where) + "\n")


def table(rows: Sequence[Row]) -> str:
    """The rows for the terminal, the fastest first."""
    lines = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["workload"], row["pass"]), []).append(row)
    for group in groups.values():
        timed = sorted((row for row in group if "ms" in row), key=lambda row: row["ms"])
        first = group[0]
        lines.append(f"{first['op']}, {first['workload']}, {first['dtype']}, {first['pass']}")
        if timed:
            moved = f"moved {100 * timed[0]['limit_moved']:.0f} %"
            lines[-1] += f": limit {timed[0]['limit_ms']} ms ({timed[0]['limit']}), {moved}"
            lines[-1] += ": INCONCLUSIVE" if timed[0]["verdict"] == "inconclusive" else ""
        lines += [f"  {row['candidate']:30} {_line(row)}" for row in timed]
        lines += [
            f"  {row['candidate']:30} {row['verdict']}: {row['reason']}" for row in group if "ms" not in row
        ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    middle, low, high = row["times_limit"]
    notes = [
        f"{row['ms']:>9.4g} ms {middle:>7.3g} x limit ({low:.3g} to {high:.3g}), {100 / middle:.0f} % of it"
    ]
    if row["prepare_ms"]:
        notes.append(f"preparation {row['prepare_ms']:.3g} ms")
    if row.get("peak_mib") is not None:
        notes.append(f"{row['peak_mib']:.0f} MiB")
    if row.get("against"):
        peer, (of_peer, *_) = best_peer(row)
        notes.append(f"{of_peer:.2f} x {peer}")
    return "  ".join(notes)


def best_peer(row: Row) -> tuple[str, list[float]]:
    """The fastest peer and our ratio to it."""
    return max(row["against"].items(), key=lambda item: item[1][0])
