"""The figures of an evaluation. Drawn without a display; matplotlib is imported only here."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustmdiff.evaluation.conditions import COMPLETE, Condition, mcar
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.support import BIN

# Okabe and Ito (2008): told apart by colour-blind readers and in grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
CEILING = {"color": "black", "linestyle": "--", "linewidth": 1.2}
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
CEILING_NAME = "ceiling (exact posterior)"
PROMISED = "promised"


def _colour(results: Results, method: str) -> str:
    return COLOURS[results.methods.index(method) % len(COLOURS)]


def _legend(figure: Figure) -> None:
    """One legend for all panels, above them, the methods first."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] in (CEILING_NAME, PROMISED))
    rows = ceil(len(order) / max(1, int(figure.get_figwidth() / 1.75)))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=ceil(len(order) / max(rows, 1)),
    )


def retention(results: Results) -> Figure:
    """Macro AUROC against the missing rate, both sweeps, with 95 % intervals and the ceiling."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.7), sharey=True)
    rates = np.array(results.masks.rates)
    for ax, at_least_one in zip(axes, (False, True), strict=True):
        for method in results.values:
            curve = results.sweep(method, at_least_one=at_least_one)
            if curve.shape[1] == 0:
                continue
            if method == "ceiling":
                ax.plot(rates, curve[0], label=CEILING_NAME, zorder=3, **CEILING)
                continue
            colour = _colour(results, method)
            ax.plot(rates, curve[0], marker="o", markersize=3, color=colour, label=method)
            at = [
                results.interval(method, mcar(rate, at_least_one), "auroc/macro") for rate in rates.tolist()
            ]
            low, high = zip(*[(b.low, b.high) if b else (np.nan, np.nan) for b in at], strict=True)
            ax.fill_between(rates, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.axhline(0.5, color="grey", linewidth=0.8)
        ax.set_xlabel("probability that a modality is missing")
        ax.set_title("at least one modality kept" if at_least_one else "nothing kept on purpose", fontsize=9)
    axes[0].set_ylabel(f"macro AUROC ({results.support('auroc/macro')})")
    _legend(figure)
    return figure


def classes(results: Results) -> Figure:
    """AUROC of every class with half of the modalities missing."""
    named = [c for c in results.task.classes if c not in results.skipped]
    figure, ax = plt.subplots(figsize=(8.5, 1.4 + 0.34 * len(named)))
    offsets = np.linspace(-0.28, 0.28, max(len(results.methods), 2))
    for method, offset in zip(results.methods, offsets, strict=False):
        found = [results.interval(method, results.half, f"auroc/{name}") for name in named]
        drawn = [(i, f) for i, f in enumerate(found) if f is not None]
        value = np.array([f.value for _, f in drawn])
        span = np.array([[f.value - f.low, f.high - f.value] for _, f in drawn]).reshape(-1, 2).T
        y = np.array([i for i, _ in drawn]) + offset
        colour = _colour(results, method)
        ax.errorbar(
            value, y, xerr=span.clip(0), fmt="o", markersize=3.5, elinewidth=1, color=colour, label=method
        )
    if "ceiling" in results.values:
        best = [results.interval("ceiling", results.half, f"auroc/{name}") for name in named]
        for i, found_best in enumerate(best):
            if found_best is not None:
                label = CEILING_NAME if i == 0 else None
                ax.plot([found_best.value] * 2, [i - 0.4, i + 0.4], color="black", linewidth=1.4, label=label)
    rare = {name: "rare, " if name in results.task.rare else "" for name in named}
    ax.set_yticks(
        range(len(named)), [f"{name} ({rare[name]}n = {results.counts[name].people})" for name in named]
    )
    ax.set_ylim(len(named) - 0.5, -0.5)
    ax.set_xlabel(f"AUROC, modalities missing with probability {results.half.rate:g}")
    _legend(figure)
    return figure


def subsets(results: Results, count: int = 10) -> Figure:
    """Macro AUROC of the subsets that are hardest for the first method."""
    worst = results.worst_subsets(results.methods[0], count)
    figure, ax = plt.subplots(figsize=(8.5, 1.4 + 0.42 * len(worst)))
    height = 0.8 / len(results.methods)
    for k, method in enumerate(results.methods):
        y = np.arange(len(worst)) - 0.4 + height * (k + 0.5)
        value = [results.interval(method, subset, "auroc/macro") for subset in worst]
        width = [v.value - 0.5 if v else 0 for v in value]
        ax.barh(y, width, height * 0.9, left=0.5, color=_colour(results, method), label=method)
    if "ceiling" in results.values:
        for i, subset in enumerate(worst):
            best = results.interval("ceiling", subset, "auroc/macro")
            if best is not None:
                label = CEILING_NAME if i == 0 else None
                ax.plot([best.value] * 2, [i - 0.45, i + 0.45], color="black", linewidth=1.4, label=label)
    ax.set_yticks(range(len(worst)))
    ax.set_yticklabels([subset.label for subset in worst])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    rests = results.support("auroc/macro")
    ax.set_xlabel(f"macro AUROC when only these modalities are left ({rests}; 0.5 is chance)")
    _legend(figure)
    return figure


def reliability(results: Results) -> Figure | None:
    """How often the most probable class is right, against how probable it was said to be; None where no bin
    holds enough."""
    if not any(_curves(results, condition) for condition in (COMPLETE, results.half)):
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 4.9), sharey=True)
    metric = results.task.labels.calibration
    for ax, condition in zip(axes, (COMPLETE, results.half), strict=True):
        _reliability(ax, results, condition)
        for line, method in enumerate(reversed(results.methods)):
            ece = results.interval(method, condition, metric)
            if ece is not None:
                ax.text(
                    0.98,
                    0.03 + 0.06 * line,
                    f"ECE {ece.value:.3f}",
                    color=_colour(results, method),
                    transform=ax.transAxes,
                    ha="right",
                    fontsize=8,
                )
        ax.set(xlabel="probability stated")
        ax.set_title(f"{condition.label} ({results.support(metric)})", fontsize=9)
    axes[0].set_ylabel("share that was right")
    _legend(figure)
    return figure


def reliability_classes(results: Results) -> Figure | None:
    """The reliability of every class with half of the modalities missing; None where no bin holds enough."""
    names, columns = results.task.classes, 4
    if not any(_curves(results, results.half, name) for name in names):
        return None
    rows = ceil(len(names) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(8.5, 0.9 + 2.4 * rows), sharex=True, sharey=True, squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        _reliability(ax, results, results.half, name)
        ax.set_title(textwrap.fill(f"{name} (n\u00a0=\u00a0{results.counts[name].people})", 26), fontsize=8)
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    # All panels share these; matplotlib would look for the same ones in each, again and again.
    axes[0, 0].set(xticks=(0, 0.5, 1), yticks=np.linspace(0, 1, 6))
    figure.supxlabel(f"probability stated, modalities missing with probability {results.half.rate:g}", size=9)
    figure.supylabel("share who had the class", size=9)
    _legend(figure)
    return figure


def _reliability(ax: Axes, results: Results, condition: Condition, name: str | None = None) -> None:
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    curves = _curves(results, condition, name)
    for method in results.methods:
        stated, right = curves.get(method, ([], []))
        colour = _colour(results, method)
        ax.plot(stated, right, marker="o", markersize=3.5, linewidth=1, color=colour, label=method)
    if not curves:
        ax.text(0.5, 0.6, f"no bin of\n{BIN} records", ha="center", fontsize=8)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.set_box_aspect(1)


def _curves(
    results: Results, condition: Condition, name: str | None = None
) -> dict[str, tuple[list[float], list[float]]]:
    """What each method stated and how often it was right, over the bins that tell something."""
    found = {}
    for method in results.methods:
        stated, right, records = results.reliability(method, condition, name)
        if (records >= BIN).any():
            found[method] = (stated[records >= BIN].tolist(), right[records >= BIN].tolist())
    return found


def coverage(results: Results) -> Figure | None:
    """Coverage and size of the prediction sets for every subset, by how many modalities it has."""
    having = [m for m in results.methods if "coverage" in results.values[m][COMPLETE]]
    if not having:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.7))
    offsets = np.linspace(-0.3, 0.3, max(len(having), 2))
    for method, offset in zip(having, offsets, strict=False):
        found = [
            (len(subset.names), results.values[method][subset])
            for subset in results.masks.subsets
            if "coverage" in results.values[method][subset]
        ]
        x = np.array([size for size, _ in found]) + offset
        for ax, metric in zip(axes, ("coverage", "set_size"), strict=True):
            y = [float(values[metric][0]) for _, values in found]
            ax.plot(
                x,
                y,
                "o",
                markersize=3.5,
                alpha=0.7,
                markeredgewidth=0,
                color=_colour(results, method),
                label=method,
            )
    axes[0].axhline(1 - results.alpha, label=PROMISED, **CEILING)
    axes[0].set(ylabel=f"share of true classes in the set ({results.support('coverage')})")
    axes[1].set(ylabel="classes in the set")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_xlabel("modalities left (a dot is a subset)")
        ax.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure)
    return figure


def figures(results: Results) -> dict[str, Callable[[Results], Figure | None]]:
    """What can be drawn of these results, by file name without its ending."""
    drawable: dict[str, Callable[[Results], Figure | None]] = {
        "reliability": reliability,
        "reliability_classes": reliability_classes,
        "coverage": coverage,
    }
    if len(results.skipped) < len(results.task.classes):
        drawable |= {"retention": retention, "classes": classes, "subsets": subsets}
    return drawable


def draw(results: Results, folder: Path) -> list[str]:
    """Write the figures as PNG into folder; returns the names of the files."""
    written = []
    with matplotlib.rc_context(STYLE):
        for name, plot in figures(results).items():
            figure = plot(results)
            if figure is not None:
                figure.savefig(folder / f"{name}.png", dpi=150)
                plt.close(figure)
                written.append(f"{name}.png")
    return written
