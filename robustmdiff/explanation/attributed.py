"""The pixels, words and values that speak for a class, as a page that is not ours to write shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.explanation.attribution import Attribution, attribute, read
from robustmdiff.explanation.explain import image_views, text_views
from robustmdiff.explanation.patient_page import pictures, pieces


def attributor(model: RobustMDiff) -> Callable[[Patient, Collator, str], dict[str, Any]]:
    """attributed(patient, collator, target): what each part of one patient did for the class of that name, in
    JSON's types.

    {"target", "probability", "baseline", "completeness_error": as in Attribution,
     "total": by modality, None of one that cannot be taken apart,
     "images": by modality its channels, {"name", "plain", "heat"}, pictures as data URIs,
     "texts": by modality its pieces in their order, {"text", "share", "points", "unread"} (`Piece`),
     "values": by modality the points of each measured field}

    The concepts are embedded once. Not for several threads at a time.
    """
    with torch.no_grad():
        K = model.eval().embed_concepts()

    def attributed(patient: Patient, collator: Collator, target: str) -> dict[str, Any]:
        reading = read(model, patient, collator, K)
        found = attribute(model, reading, model.task.classes.index(target))
        images = pictures(image_views(model, reading.batch, found))
        return {
            "target": target,
            "probability": found.probability,
            "baseline": found.baseline,
            "completeness_error": found.completeness_error,
            "total": {name: found.total.get(name) for name in found.gradient},
            "images": {image["name"]: image["channels"] for image in images},
            "texts": {
                view.name: [piece._asdict() for piece in pieces(view)]
                for view in text_views(model, patient, found)
            },
            "values": _values(model, found),
        }

    return attributed


def _values(model: RobustMDiff, found: Attribution) -> dict[str, dict[str, float]]:
    panels = (each.name for each in model.task.of_kind("values"))
    return {name: dict(found.parts[name]) for name in panels if name in found.parts}
