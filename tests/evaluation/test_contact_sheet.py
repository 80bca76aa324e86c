"""The sheet that one looks at: a panel for every image, refusals for what cannot be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from robustmdiff.evaluation.contact_sheet import contact_sheet


def sheet(path, n=2, draws=4, **change):
    real = torch.full((n, 16, 16), 0.2)
    moved = torch.linspace(-0.1, 0.1, draws)[:, None, None, None]
    parts = {
        "title": "PDw from T1w",
        "patients": [f"patient {i}" for i in range(n)],
        "given": {"T1w": torch.zeros(n, 16, 16)},
        "real": real,
        "samples": real + moved,
    }
    contact_sheet(path, **(parts | change))


def width(path) -> int:
    return Image.open(path).size[0]


def test_each_sample_has_a_column_and_equal_grey_means_equal_value(tmp_path):
    sheet(tmp_path / "three.png")
    sheet(tmp_path / "one.png", shown=1)
    assert width(tmp_path / "three.png") - width(tmp_path / "one.png") == 2 * 1.3 * 150
    grey = np.asarray(Image.open(tmp_path / "one.png").convert("L"))
    values, counts = np.unique(grey, return_counts=True)
    panels = set(values[counts > 1000].tolist())
    assert {127, 128} & panels  # 0 on the window from -1 to 1
    assert {152, 153} & panels  # .2


@pytest.mark.parametrize(("n", "draws"), [(1, 1), (3, 1), (1, 16)])
def test_a_single_patient_or_sample_is_drawn(tmp_path, n, draws):
    sheet(tmp_path / "sheet.png", n, draws)
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"patients": []}, r"real is \[2, 16, 16\], expected \[1, H, W\]"),
        ({"given": {"T1w": torch.zeros(3, 16, 16)}}, r"given 'T1w' is \[3, 16, 16\], expected \[2, H, W\]"),
        ({"samples": torch.zeros(4, 2, 16, 15)}, r"samples are \[4, 2, 16, 15\], expected \[N, 2, 16, 16\]"),
        ({"real": torch.full((2, 16, 16), math.nan)}, "real holds NaN"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, change, reason):
    with pytest.raises(ValueError, match=reason):
        sheet(tmp_path / "sheet.png", **change)
