"""The web page at /: one file of our own, which may load and send nothing but what this server has."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustmdiff.data.task import Task

HTML = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def _digest(element: str) -> str:
    """The digest, for a Content-Security-Policy, of what stands inside the page's only SCRIPT or STYLE."""
    (inside,) = re.findall(f"<{element}>(.*?)</{element}>", HTML, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_digest('script')}",
            f"style-src {_digest('style')}",
            "connect-src 'self'",
            "img-src blob: data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def described(task: Task) -> Mapping[str, Any]:
    """What a form needs to know; encoders, which may be paths of another machine, are not told."""
    return {
        "modalities": [
            {
                "name": modality.name,
                "kind": modality.kind,
                "channels": modality.channels,
                "fields": [
                    {
                        "name": field.name,
                        "unit": field.unit,
                        "reference": field.reference,
                        "categories": field.categories,
                    }
                    for field in modality.fields
                ],
            }
            for modality in task.modalities
        ],
        "classes": task.classes,
        "prevalence": dict(zip(task.classes, task.prevalence, strict=True)),
        "multilabel": task.multilabel,
        "rare": task.rare,
    }
