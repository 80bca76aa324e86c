"""Generated images beside the real ones, on one PNG to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

MARK = "synthetic"
INCHES = 1.3  # a panel


def contact_sheet(
    path: Path | str,
    *,
    title: str,
    patients: Sequence[str],
    given: Mapping[str, Tensor],
    real: Tensor,
    samples: Tensor,
    shown: int = 3,
) -> None:
    """Draw n patients as rows: what was given, the real image, the mean of all N samples, its error, and the
    first samples.

    given    by name, float [n, H, W] in [-1, 1] each; may be empty
    real     float [n, H, W] in [-1, 1]
    samples  float [N, n, H, W]
    shown    how many samples have a column of their own

    Every image has the window -1 (black) to 1 (white); errors are mean less real, blue to red, with one scale
    for all patients, which the column says. Whatever a model made is marked synthetic.
    """
    n = len(patients)
    _check(n, given, real, samples)
    mean = samples.mean(0)
    error = mean - real
    largest = max(float(error.abs().quantile(0.995)), 1e-6)
    images = {**given, "real": real}
    images |= {f"mean of {len(samples)}\n({MARK})": mean} if len(samples) > 1 else {}
    columns = [(name, x, Normalize(-1, 1), "gray") for name, x in images.items()]
    columns.append((f"error\n(±{largest:.2f})", error, Normalize(-largest, largest), "RdBu_r"))
    for k, x in enumerate(samples[:shown], start=1):
        columns.append((f"sample {k}\n({MARK})", x, Normalize(-1, 1), "gray"))
    figure = Figure(
        figsize=(INCHES * len(columns) + 0.8, INCHES * n + 0.9), layout="constrained", facecolor="white"
    )
    axes = figure.subplots(n, len(columns), squeeze=False)
    for c, (name, x, norm, colours) in enumerate(columns):
        axes[0, c].set_title(name, fontsize=8)
        for i in range(n):
            axes[i, c].imshow(x[i].detach().cpu().numpy(), cmap=colours, norm=norm, interpolation="nearest")
            axes[i, c].set(xticks=[], yticks=[])
    for i, patient in enumerate(patients):
        axes[i, 0].set_ylabel(patient, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def _check(n: int, given: Mapping[str, Tensor], real: Tensor, samples: Tensor) -> None:
    if n == 0 or real.ndim != 3 or len(real) != n:
        raise ValueError(
            f"contact_sheet: real is {list(real.shape)}, expected [{max(n, 1)}, H, W], a row each"
        )
    for name, x in given.items():
        if x.ndim != 3 or len(x) != n:
            raise ValueError(f"contact_sheet: given {name!r} is {list(x.shape)}, expected [{n}, H, W]")
    if samples.ndim != 4 or len(samples) == 0 or samples.shape[1:] != real.shape:
        expected = ", ".join(map(str, real.shape))
        raise ValueError(f"contact_sheet: samples are {list(samples.shape)}, expected [N, {expected}]")
    for name, x in {**given, "real": real, "samples": samples}.items():
        if not torch.isfinite(x).all():
            raise ValueError(f"contact_sheet: {name} holds NaN or infinity, expected finite pixels")
