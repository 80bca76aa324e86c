"""Write the numbers of README.md, docs/benchmarks.md and docs/ops/*.md from benchmarks/results/*.jsonl.

    python tools/benchmark_tables.py            rewrite what stands between the markers, and the plots
    python tools/benchmark_tables.py --check    say which pages differ, and change nothing

A page marks the place with two comments, `numbers: masked_attention` (an op, call_overhead, plots
or summary) and `end of numbers`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import plots  # noqa: E402
from benchmarks.comparison import best_peer  # noqa: E402
from benchmarks.runs import RESULTS, Row, latest, machines, slug  # noqa: E402

PLACE = re.compile(r"(<!-- numbers: (\w+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)
PASSES = ("forward", "backward", "forward+backward")
NONE = "No run is recorded yet: `python -m pytest benchmarks`.\n"
OPS = ("masked_attention", "knowledge_attention", "graph_attention", "ddpm_step", "chain")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is stale")
    check = parser.parse_args().check
    rows = latest(RESULTS)
    stale = [
        page
        for page in pages()
        if rewritten(page.read_text(encoding="utf-8"), rows) != page.read_text(encoding="utf-8")
    ]
    for page in stale:
        print(("stale: " if check else "wrote ") + str(page.relative_to(ROOT)))
        if not check:
            page.write_text(rewritten(page.read_text(encoding="utf-8"), rows), encoding="utf-8")
    if not check:
        for file in plots.draw(rows):
            print(f"wrote {file.relative_to(ROOT)}")
    return int(check and bool(stale))


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if PLACE.search(page.read_text(encoding="utf-8"))]


def rewritten(page: str, rows: Sequence[Row]) -> str:
    return PLACE.sub(lambda place: f"{place[1]}{section(place[2], rows)}{place[3]}", page)


def section(name: str, rows: Sequence[Row]) -> str:
    if name == "summary":
        return summary(rows)
    if name == "plots":
        return pictures(rows)
    found = [row for row in rows if row["op"] == name and "curve" not in row]
    write = overhead if name == "call_overhead" else workload
    parts = []
    for machine in machines(found):
        here = [row for row in found if row["machine"] == machine]
        if write is overhead:
            parts.append(overhead(here))
            continue
        for title in dict.fromkeys((row["workload"], row["dtype"]) for row in here):
            parts.append(workload([row for row in here if (row["workload"], row["dtype"]) == title]))
    return "\n".join(parts) if parts else NONE


def where(row: Row) -> str:
    many = "thread" if row["threads"] == 1 else "threads"
    threads = f", {row['threads']} {many}" if row["device"] == "cpu" else ""
    return f"{row['machine']}{threads}, torch {row['torch']}, commit {row['commit']}, {row['date'][:10]}"


def workload(rows: Sequence[Row]) -> str:
    """One table for a workload: a line a candidate, our fastest kernel compared with each peer."""
    timed = [row for row in rows if "ms" in row]
    of = {(row["candidate"], row["pass"]): row for row in timed}
    passes = [part for part in PASSES if any(row["pass"] == part for row in timed)]
    found = {part: _champion([row for row in timed if row["pass"] == part]) for part in passes}
    champion = {part: row["candidate"] if row else "" for part, row in found.items()}
    first = rows[0]
    lines = [f"**{first['workload']}**, {first['dtype']}. {where(first)}.\n"]
    for part in passes:
        row = next(row for row in timed if row["pass"] == part)
        lines.append(
            f"{part.capitalize()}: limit {row['limit_ms']:.3g} ms ({row['limit']})"
            + (f"; **inconclusive**, it moved {100 * row['limit_moved']:.0f} %" if _shaky(row) else "")
            + "."
        )
    header = ["", "preparation"]
    for part in passes:
        header += [part, "x limit", f"{champion[part]} / it" if champion[part] else "ours / it"]
    header += ["memory"]
    lines += ["", _line(header), _line(["---"] * len(header))]
    names = sorted({row["candidate"] for row in timed}, key=lambda name: (_ms(of, name, passes), name))
    for name in names:
        alone = of.get((name, "forward"), {})
        cells = [name, f"{alone['prepare_ms']:.3g} ms" if alone.get("prepare_ms") else ""]
        for part in passes:
            row = of.get((name, part))
            if row is None:
                cells += ["", "", ""]
                continue
            middle, low, high = row["times_limit"]
            ours = of.get((champion[part], part))
            against = (ours or {}).get("against", {}).get(name)
            prepared = (ours or {}).get("against_prepared", {}).get(name)
            cells += [
                f"{row['ms']:.4g} ms",
                f"{middle:.3g} ({low:.3g} to {high:.3g}), {100 / middle:.0f} %",
                (f"{against[0]:.2f} ({against[1]:.2f} to {against[2]:.2f})" if against else "")
                + (f"; {prepared[0]:.2f} once prepared" if prepared else ""),
            ]
        memory = next(
            (of[name, p].get("peak_mib") for p in ("forward+backward", "forward") if (name, p) in of), None
        )
        lines.append(_line([*cells, "" if memory is None else f"{memory:.0f} MiB"]))
    refused = {row["candidate"]: row for row in rows if "ms" not in row}
    lines += [""] if refused else []
    lines += [f"- not timed: {name}{_which(rows, name)}: {row['reason']}" for name, row in refused.items()]
    return "\n".join(lines) + "\n"


def overhead(rows: Sequence[Row]) -> str:
    ways = list(dict.fromkeys(row["workload"].partition(", ")[2] for row in rows))
    of = {(row["candidate"], row["workload"].partition(", ")[2]): row for row in rows}
    first = rows[0]
    lines = [f"{where(first)}. `x + 1` took {1e3 * first['limit_ms']:.2f} us.", ""]
    if _shaky(first):
        lines[0] += f" **Inconclusive**: it moved {100 * first['limit_moved']:.0f} %."
    lines += [_line(["op, backend", *ways]), _line(["---"] * (len(ways) + 1))]
    for name in dict.fromkeys(row["candidate"] for row in rows):
        found = [of.get((name, way)) for way in ways]
        lines.append(
            _line(
                [name, *(f"{1e3 * r['ms']:.3g} us, {r['times_limit'][0]:.2g} x" if r else "" for r in found)]
            )
        )
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """Our fastest kernel at every workload: the table of the README."""
    ours = [row for row in rows if row.get("ours") and "curve" not in row and row["op"] in OPS]
    lines = []
    places = (where(row) for machine in machines(ours) for row in ours if row["machine"] == machine)
    for place in dict.fromkeys(places):
        here = [row for row in ours if where(row) == place]
        lines += [
            f"{place}:",
            "",
            _line(["op", "workload", "pass", "ours", "x limit", "best peer", "ours / it"]),
        ]
        lines.append(_line(["---"] * 7))
        for op in OPS:
            groups: dict[tuple[str, str], list[Row]] = {}
            for row in here:
                if row["op"] == op and row["pass"] in ("forward", "backward"):
                    groups.setdefault((row["workload"], row["pass"]), []).append(row)
            for (title, part), group in groups.items():
                row = _champion(group)
                assert row is not None
                peer, ratio = best_peer(row) if row["against"] else ("", None)
                name = row["candidate"].removeprefix("ours, ")
                shaky = " (inconclusive)" if _shaky(row) else ""
                lines.append(
                    _line(
                        [
                            f"[{op}](docs/ops/{op}.md)",
                            title,
                            part,
                            f"{row['ms']:.4g} ms ({name})",
                            f"{row['times_limit'][0]:.3g}{shaky}",
                            peer,
                            f"{ratio[0]:.2f}" if ratio else "",
                        ]
                    )
                )
        lines.append("")
    return "\n".join(lines) if lines else NONE


def pictures(rows: Sequence[Row]) -> str:
    lines = []
    for machine in machines(rows):
        here = [row for row in rows if row["machine"] == machine and "curve" in row]
        for op in OPS:
            drawn = [row for row in here if row["op"] == op and "ms" in row]
            if drawn:
                first = drawn[0]
                lines.append(f"![{op}: {first['curve']}, {machine}](images/{op}_{slug(machine)}.png)\n")
                shaky = sorted({str(row["x"]) for row in drawn if _shaky(row)})
                if shaky:
                    lines.append(f"Inconclusive at {first['curve']} {', '.join(shaky)}.\n")
        lines += [
            f"Not here: {row['workload']} ({row['reason']}).\n"
            for row in here
            if row["verdict"] == "not here"
        ]
    return "\n".join(lines) if lines else NONE


def _shaky(row: Row) -> bool:
    return row["verdict"] == "inconclusive"


def _champion(rows: Sequence[Row]) -> Row | None:
    """The backend that a call gets, where the run says so; else our fastest kernel, and the fallback in
    torch, which nobody gets where a kernel runs, only if alone."""
    ours = [row for row in rows if row["ours"]]
    chosen = [row for row in ours if row["candidate"] == f"ours, {row.get('chosen')}"]
    kernels = [row for row in ours if row["candidate"] != "ours, torch"]
    return min(chosen or kernels or ours, key=lambda row: row["ms"], default=None)


def _ms(of: dict[tuple[str, str], Row], name: str, passes: Sequence[str]) -> float:
    return next((of[name, part]["ms"] for part in passes if (name, part) in of), float("inf"))


def _which(rows: Sequence[Row], name: str) -> str:
    parts = [row["pass"] for row in rows if row["candidate"] == name and "ms" not in row]
    return "" if "forward" in parts else " (" + ", ".join(parts) + ")"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
