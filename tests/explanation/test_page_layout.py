"""How the page of a patient looks: alone, on a phone, by day and night, with hostile text."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from robustmdiff.data.patient import Patient
from robustmdiff.explanation.patient_page import (
    AGAINST,
    FOR,
    _overlay,
    _percent,
    _points,
    explain_patient,
    render_patient_page,
)
from tests.explanation.page import Page


def test_page_stands_alone_and_is_accessible(explanation):
    page = Page(render_patient_page(explanation))
    assert not page.all("script")
    assert not page.all("link")
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert not [a for _, a in page.tags if a.get("href", "").startswith("http")]
    alts = [a["alt"] for a in page.all("img")]
    assert len(alts) == len(set(alts)) == 2 * (1 + 3 + 2)
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_pictures_keep_their_size(explanation):
    from PIL import Image

    sources = [a["src"].split(",")[1] for a in Page(render_patient_page(explanation)).all("img")]
    images = [Image.open(io.BytesIO(base64.b64decode(s))) for s in sources]
    assert [i.size for i in images] == [(24, 16)] * 2 + [(16, 24)] * 6 + [(16, 16)] * 4
    plain = np.asarray(images[0]).astype(float) / 255
    pixels = explanation.images[0].pixels[0].numpy()
    np.testing.assert_allclose(plain, np.repeat(pixels[..., None], 3, 2), atol=0.5 / 255 + 1e-6)


def test_heat_goes_orange_for_and_blue_against():
    grey = np.full((1, 3, 3), 0.5)
    over = _overlay(grey, np.array([[1.0, 0.0, -1.0]]))
    red, blue = over[0, :, 0], over[0, :, 2]
    assert red[0] > 0.7 > 0.2 > blue[0]
    assert blue[2] > 0.6 > 0.2 > red[2]
    np.testing.assert_array_equal(over[0, 1], grey[0, 1])


def test_text_from_data_is_escaped(model, collator):
    """Escaping is Jinja's; that it is switched on, everywhere, is ours."""
    evil = "<script>alert('opacity')</script> & \"fever\" <b onmouseover=x>"
    patient = Patient(evil, {"note": evil}, source=evil, site=evil)
    html = render_patient_page(explain_patient(model, patient, collator, draws=4, steps=2, checkpoint=evil))
    page = Page(html)
    assert "<script" not in html
    assert not page.all("script")
    assert not page.all("b")
    assert page.report == evil
    assert page.text.count(evil) >= 4  # title in the head is not counted


def test_it_can_be_read_on_a_phone(explanation):
    """360 px wide: 8 px of margin, a border and 12 px of padding on either side leave 318."""
    html = render_patient_page(explanation)
    page = Page(html)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.boxes) == 6
    assert set(page.boxes) == {("div", "scroll")}
    boxes = [box for box in page.all("div") if box.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)  # for the keyboard
    css = html[html.index("<style>") : html.index("</style>")]
    assert ".scroll { overflow-x: auto; }" in css
    assert "overflow-wrap: anywhere" in css[css.index("body {") : css.index("main {")]
    widths = [int(px) for px in re.findall(r"(?<!max-)width: (\d+)px", css)]
    assert 0 < max(widths) <= 318
    nowrap = re.findall(r"([^{}]*)\{[^}]*white-space: nowrap", css)
    assert [selector.strip() for selector in nowrap] == ["td.n, th.n"]  # in tables alone


def luminance(rgb):
    """Of sRGB, 0 to 1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colour(hexadecimal):
    digits = hexadecimal if len(hexadecimal) == 6 else "".join(2 * c for c in hexadecimal)
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def test_text_can_be_read_by_day_and_night(explanation):
    """A contrast of 4.5 (WCAG 2.2, AA) for every text on every ground, in both palettes."""
    html = render_patient_page(explanation)
    light, dark = re.findall(r":root \{([^}]*)\}", html)
    read = [dict(re.findall(r"--(\w+): #(\w+);", palette)) for palette in (light, dark)]
    assert read[0].keys() == read[1].keys()
    for palette in read:
        of = {name: colour(value) for name, value in palette.items()}
        marked = [0.6 * np.array(rgb) / 255 + 0.4 * of["card"] for rgb in (FOR, AGAINST)]
        pairs = [("ink", of["alert"]), ("card", of["bar"]), *(("ink", ground) for ground in marked)]
        pairs += [(text, of[ground]) for text in ("ink", "soft") for ground in ("card", "wash")]
        for text, ground in pairs:
            low, high = sorted((luminance(of[text]), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize(("p", "shown"), [
    (0.0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.5, "50 %"), (1.0, "100 %"),
])  # fmt: skip
def test_percent(p, shown):
    assert _percent(p) == shown


@pytest.mark.parametrize(("x", "shown"), [(0.1234, "+12.3"), (-0.5, "−50.0"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_points(x, shown):
    assert _points(x) == shown


def test_a_long_class_name_may_break_after_a_slash_and_is_still_escaped():
    from robustmdiff.explanation.patient_page import _breakable

    assert _breakable("Pneumonia/Viral/<b>") == "Pneumonia/<wbr>Viral/<wbr>&lt;b&gt;"
