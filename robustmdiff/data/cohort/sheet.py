"""A contact sheet: what the patients of a cohort look like."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence

import numpy as np

from robustmdiff.data.cohort.cohort import CHANNELS, Cohort

_WINDOWS = {"xray": ((0.1, 1.0),), "ct": ((-1000, 300),) * 4, "mri": ((0, 0.45), (0, 0.6), (0, 0.9))}
_TITLES = ["X-ray", *(f"CT {name}" for name in CHANNELS["ct"]), *(f"MRI {name}" for name in CHANNELS["mri"])]


def first_of_each_class(cohort: Cohort) -> np.ndarray:
    """The first patient of every class that occurs."""
    return np.sort([int(np.flatnonzero(column)[0]) for column in cohort.labels.T if column.any()])


def contact_sheet(cohort: Cohort, index: Sequence[int] | np.ndarray, path: str | os.PathLike[str]) -> None:
    """Writes a PNG with one row per patient: X-ray, CT slices, MRI contrasts, diagnosis, report.
    Modalities that a patient lacks stay empty."""
    from matplotlib.figure import Figure
    from PIL import Image

    columns = len(_TITLES) + 1
    figure = Figure(figsize=(13.5, 1.32 * len(index) + 0.3))
    axes = figure.subplots(len(index), columns, squeeze=False, width_ratios=[1] * (columns - 1) + [2.4])
    for row, i in zip(axes, index, strict=True):
        patient = cohort.patients[int(i)]
        cells = iter(row)
        for name, windows in _WINDOWS.items():
            image = patient.modalities[name]
            for channel, (low, high) in enumerate(windows):
                cell = next(cells)
                if isinstance(image, np.ndarray):
                    cell.imshow(image[channel], cmap="gray", vmin=low, vmax=high)
        diagnosis = ", ".join(name for name, holds in patient.labels.items() if holds)
        text = f"{diagnosis.upper()}\n{textwrap.fill(str(patient.modalities['text'] or ''), 50)}"
        next(cells).text(0, 1, text, fontsize=7, va="top")
    for cell, title in zip(axes[0], [*_TITLES, ""], strict=True):
        cell.set_title(title, fontsize=8)
    for cell in axes.flat:
        cell.axis("off")
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.25 / figure.get_figheight(), 0.03, 0.03)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    # 32 greys are enough for the eye and a third of the file.
    Image.open(buffer).convert("L").quantize(32).save(path, format="PNG", optimize=True)
