"""name=value on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustmdiff.refusal import Refusal


def pairs(given: list[str] | None, flag: str) -> dict[str, Any]:
    """--set a=1 --set model.draws=32 -> {"a": 1, "model": {"draws": 32}}; values are YAML."""
    import yaml

    pairs: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Refusal(f"{flag} is {text!r}, expected name=value")
        *parents, last = name.split(".")
        place = pairs
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise Refusal(f"{flag} is {text!r}, but {parent} was given the value {place!r} before")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise Refusal(f"{flag} is {text!r}, expected a value in YAML ({error})") from error
    return pairs


def models(given: list[str] | None) -> dict[str, str]:
    """--encoder text=FOLDER -> {"text": "/its/whole/path"}; a name that is no folder stays one."""
    found = {}
    for text in given or []:
        name, _, model = text.partition("=")
        if not name or not model:
            raise Refusal(f"--encoder is {text!r}, expected modality=model")
        found[name] = str(Path(model).resolve()) if Path(model).exists() else model
    return found
