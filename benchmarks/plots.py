"""The plots of docs/benchmarks.md, from the recorded rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.runs import Row, machines, slug

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LINES = {  # curve: op, what the axis shows
    "fraction present": ("masked_attention", "modalities present"),
    "concepts": ("knowledge_attention", "concepts k"),
    "batch": ("ddpm_step", "batch of 4 x 64 x 64"),
}


def draw(rows: Sequence[Row], folder: Path = IMAGES) -> list[Path]:
    """Every plot that the rows are enough for; returns the files written."""
    written = []
    for machine in machines(rows):
        here = [row for row in rows if row["machine"] == machine and "curve" in row and "ms" in row]
        for curve, (op, label) in LINES.items():
            found = [row for row in here if row["curve"] == curve]
            if found:
                written.append(_lines(found, label, folder / f"{op}_{slug(machine)}.png"))
        found = [row for row in here if row["curve"] == "graph"]
        if found:
            written.append(_bars(found, folder / f"graph_attention_{slug(machine)}.png"))
    return written


def _lines(rows: list[Row], label: str, file: Path) -> Path:
    """Time, and memory beside it where it was measured."""
    plt = _pyplot()
    curve = rows[0]["curve"]
    with_memory = any(row.get("peak_mib") is not None for row in rows)
    figure, axes = plt.subplots(
        1, 2 if with_memory else 1, figsize=(12.5 if with_memory else 8.5, 4), squeeze=False
    )
    for axis, key, title in zip(axes[0], ("ms", "peak_mib"), ("ms", "MiB at its largest"), strict=False):
        for name in dict.fromkeys(row["candidate"] for row in rows):
            points = sorted(
                (r["x"], r[key]) for r in rows if r["candidate"] == name and r.get(key) is not None
            )
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, **_style(name))
        if key == "ms":
            limit = sorted({row["x"]: row["limit_ms"] for row in rows}.items())
            axis.plot(*zip(*limit, strict=True), color="black", linestyle=":", label="limit of the machine")
        if curve == "fraction present" and key == "ms":
            _ideal(axis, rows)
        axis.set_xlabel(label)
        axis.set_ylabel(title)
        if curve == "fraction present":
            axis.set_ylim(bottom=0)
        else:
            axis.set_xscale("log")
            axis.set_yscale("symlog" if key == "peak_mib" else "log")
            if key == "peak_mib":
                axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    handles, names = axes[0][0].get_legend_handles_labels()
    axes[0][-1].legend(handles, names, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    return _save(figure, rows, file)


def _ideal(axis, rows: list[Row]) -> None:
    """Our time with everything present, shrunk like the pairs of tokens that are left."""
    ours = [row for row in rows if row["ours"]]
    whole = min((row for row in ours if row["x"] == max(r["x"] for r in ours)), key=lambda row: row["ms"])
    pairs = sorted({row["x"]: row["need"]["matmul"] for row in rows}.items())
    points = [(x, whole["ms"] * need / whole["need"]["matmul"]) for x, need in pairs]
    axis.plot(
        *zip(*points, strict=True), color="gray", linestyle="--", label="ideal: ours, only the pairs present"
    )


def _bars(rows: list[Row], file: Path) -> Path:
    """How many times its limit each candidate takes, graph by graph."""
    plt = _pyplot()
    graphs = list(dict.fromkeys(row["x"] for row in rows))
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    figure, axis = plt.subplots(figsize=(10, 4))
    for i, name in enumerate(names):
        of = {row["x"]: row for row in rows if row["candidate"] == name}
        places = [
            g + (i - len(names) / 2 + 0.5) * 0.8 / len(names) for g, graph in enumerate(graphs) if graph in of
        ]
        here = [of[graph] for graph in graphs if graph in of]
        bars = axis.bar(places, [row["times_limit"][0] for row in here], 0.8 / len(names), **_style(name))
        axis.bar_label(bars, [_ms(row["ms"]) for row in here], fontsize=5, rotation=90, padding=2)
    axis.set_xticks(range(len(graphs)), graphs, fontsize=8)
    axis.set_ylabel("x the gather limit")
    axis.set_yscale("log")
    axis.margins(y=0.2)
    axis.grid(alpha=0.3, axis="y")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return _save(figure, rows, file)


def _style(name: str) -> dict[str, object]:
    fallback = name == "ours, torch"
    return {"label": name} | ({"linewidth": 2.5} if name.startswith("ours") and not fallback else {})


def _ms(ms: float) -> str:
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms:,.0f} ms"


def _pyplot():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, rows: list[Row], file: Path) -> Path:
    shaky = sum(row["verdict"] == "inconclusive" for row in rows)
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    note = f"; {shaky} of {len(rows)} points inconclusive" if shaky else ""
    first = rows[0]
    figure.suptitle(
        f"{first['op']}, forward, {first['dtype']}: {first['machine']}, {commits}{note}", fontsize=8
    )
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
    figure.clear()
    return file
