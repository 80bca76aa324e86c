"""A patient from a command line: NAME=TEXT, NAME=FILE, or a JSON file of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import JSON, PLAIN
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Observation, Patient
from robustmdiff.data.pictures.raster import Unreadable
from robustmdiff.data.task import Task
from robustmdiff.spelling import unknown


def read_given(task: Task, given: Sequence[str], id: str = "") -> Patient:
    """Each of `given` is NAME=VALUE or the path of a JSON object {NAME: VALUE}. A value is a text, or the
    path of a file that holds it; an image's path, in the JSON relative to it; values as JSON, or the path of
    such a file. None given: a patient of whom nothing is known. Raises DataError."""
    observed: dict[str, Observation] = {}
    for text in given:
        name, equals, value = text.partition("=")
        pairs: dict[str, Any]
        if equals and name in task.modality_names:
            pairs, root = {name: value}, Path()
        elif (path := Path(text)).is_file():
            pairs, root = _json(path), path.parent
        elif equals:
            raise DataError(f"given is {text!r}: {unknown('modality', name, task.modality_names)}")
        else:
            raise DataError(f"given is {text!r}, expected modality=value, or a JSON file that is there")
        for name, value in pairs.items():
            if name not in task.modality_names:
                raise DataError(f"{text}: {unknown('modality', name, task.modality_names)}")
            if name in observed:
                raise DataError(f"given has {name!r} twice, expected each modality once")
            if value is not None:
                observed[name] = _observation(task.modality(name), value, root)
    return Patient(id, observed)


def _observation(modality: Modality, value: Any, root: Path) -> Observation:
    kind, where = KINDS[modality.kind], f"modality {modality.name!r}"
    path = _file(value, root)
    if kind.media == PLAIN:
        if not isinstance(value, str):
            raise DataError(f"{where}: is {value!r}, expected {kind.expected(modality)}")
        return value if path is None else path.read_text(encoding="utf-8")
    if kind.media == JSON:
        if isinstance(value, str):
            value = _loads(value, where) if path is None else _json(path)
        return kind.from_json(value)
    if path is None:
        raise DataError(f"{where}: is {str(value)[:100]!r}, expected a file of {kind.expected(modality)}")
    try:
        return kind.from_file(path, modality)
    except Unreadable as error:
        raise DataError(f"{where}: {path} {error}") from error


def _file(value: Any, root: Path) -> Path | None:
    """The file or folder of that name, if there is one."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return root / value if (root / value).exists() else None
    except (OSError, ValueError):  # longer than a name can be, or with a character that none has: a text
        return None


def _json(path: Path) -> dict[str, Any]:
    found = _loads(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a JSON object")
    return found


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: is not JSON ({error})") from error
