"""One self-contained HTML page for one patient: the diagnosis, and why."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.modality import Field, channel_names
from robustmdiff.explanation.acquisition import DRAWS
from robustmdiff.explanation.explain import explain_patient
from robustmdiff.explanation.record import ClassRow, FindingRow, ImageView, PatientExplanation, TextView

__all__ = ["explain_patient", "render_patient_page"]

FOR, AGAINST = (213, 94, 0), (0, 114, 178)  # vermillion and blue of Okabe and Ito (2008)
LISTED = 15  # classes and cells that are shown one by one


def render_patient_page(explanation: PatientExplanation) -> str:
    """HTML with everything inside it: pictures as data URIs, no script, nothing fetched. All that
    comes from data is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "percent": _percent,
        "interval": _interval,
        "points": _points,
        "number": _number,
        "value": _value,
        "breakable": _breakable,
        "signed": lambda x: f"{x:+.1f}".replace("-", "−"),
    }
    signs: tuple[FindingRow | ClassRow, ...] = (*explanation.findings, *explanation.classes)
    tests = explanation.next_tests or ()
    return environment.get_template("patient_page.html").render(
        e=explanation,
        pictures=pictures(explanation.images),
        texts=[(view.name, pieces(view)) for view in explanation.texts],
        widest=max((abs(m.contribution or 0) for m in explanation.modalities), default=0) or 1,
        strongest=max((abs(x) for row in signs for x in row.evidence.values()), default=0) or 1,
        noticeable=any(t.noticeable for t in tests),
        usual=any(t.usual_change is not None for t in tests),
        unseen=set(explanation.missing) - {t.modality for t in tests},
        rgb={"for": "{} {} {}".format(*FOR), "against": "{} {} {}".format(*AGAINST)},
        listed=LISTED,
        imagined=max(explanation.draws, DRAWS),
    )


def pictures(images: Sequence[ImageView]) -> list[dict[str, Any]]:
    """Per image its channels, each plain and with its heat map, as data URIs. One scale of heat per
    image, so that its channels can be compared."""
    found: list[dict[str, Any]] = []
    for image in images:
        low, high = image.window
        grey = ((image.pixels.float().cpu() - low) / (high - low)).clamp(0, 1)
        heat = None if image.heat is None else _smooth(image.heat.float().cpu())
        most = 0.0 if heat is None else float(heat.abs().max())
        channels = []
        for channel, name in enumerate(channel_names(image.channels, len(image.pixels))):
            plain = np.repeat(grey[channel].numpy()[..., None], 3, axis=2)
            over = None
            if heat is not None:
                over = _png(_overlay(plain, heat[channel].numpy() / (most or 1)))
            channels.append({"name": name, "plain": _png(plain), "heat": over})
        total = None if image.heat is None else float(image.heat.double().sum())
        found.append({"name": image.name, "channels": channels, "total": total})
    return found


def _smooth(heat: Tensor) -> Tensor:
    """[C, H, W]: for the eye, over a neighbourhood of 1/12 of the side; sums are kept inside."""
    size = max(1, min(heat.shape[1:]) // 12) | 1
    return torch.nn.functional.avg_pool2d(heat[None], size, 1, size // 2, count_include_pad=False)[0]


def _overlay(plain: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """plain [H, W, 3] in 0..1, heat [H, W] in -1..1: hue by sign, opacity by size."""
    colour = np.where(heat[..., None] > 0, np.array(FOR), np.array(AGAINST)) / 255
    opacity = 0.8 * np.abs(heat)[..., None] ** 0.7
    return plain * (1 - opacity) + colour * opacity


def _png(rgb: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((rgb * 255).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class Piece(NamedTuple):
    """A stretch of a report. share: a word's attribution over the largest one, -1 to 1, None
    between words; unread: beyond the longest text that the model reads."""

    text: str
    share: float | None = None
    points: float = 0.0
    unread: bool = False


def pieces(view: TextView) -> list[Piece]:
    """The whole text, cut at its words."""
    most = max((abs(word.attribution) for word in view.words), default=0) or 1
    found, at = [], 0
    for word in view.words:
        found.append(Piece(view.text[at : word.start]))
        found.append(Piece(word.text, word.attribution / most, word.attribution))
        at = word.end
    rest = view.text[at:]
    found.append(Piece(rest, unread=bool(view.words) and bool(rest.strip())))
    return found


def _percent(p: float) -> str:
    if 0 < p < 0.001:
        return "< 0.1 %"
    return f"{100 * p:.1f} %" if p < 0.0995 else f"{100 * p:.0f} %"


def _interval(row: ClassRow) -> str:
    low, high = _percent(row.low or 0), _percent(row.high or 0)
    return low if low == high else f"{low.removesuffix(' %') if low[0] != '<' else low} to {high}"


def _points(x: float) -> str:
    """Percentage points of probability, with sign."""
    text = f"{100 * x:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def _breakable(path: str) -> Any:
    """A long path such as Pneumonia/Viral/COVID-19 may go on in the next line after a slash."""
    from markupsafe import Markup, escape

    return escape(path).replace("/", Markup("/<wbr>"))


def _number(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def _value(x: float | str, field: Field) -> str:
    return x if isinstance(x, str) else f"{_number(float(x))} {field.unit}".rstrip()
