"""A `Task` as a small JSON or YAML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from robustmdiff.data.modality import Field, Modality, Task
from robustmdiff.data.patient import DataError


def read_task_file(path: Path) -> dict[str, Any]:
    """The file as a mapping, JSON or (by its suffix) YAML."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            read = json.loads(text)
        else:
            import yaml

            try:
                read = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}), expected JSON or YAML") from error
    if not isinstance(read, dict):
        raise DataError(
            f"{path}: holds {type(read).__name__}, expected a mapping with 'modalities' and 'classes'"
        )
    return read


def task_from(read: Mapping[str, Any], where: str, prevalence: tuple[float, ...] | None = None) -> Task:
    """The `Task` that a mapping describes by the names of its dataclass fields; a key that is none
    of them is an error. `prevalence` serves where the mapping has none."""
    described = dict(read)
    if prevalence is not None:
        described.setdefault("prevalence", prevalence)
    modalities = _list(described.get("modalities"), f"{where}: modalities")
    described["modalities"] = tuple(
        _modality(m, f"{where}: modalities[{i}]") for i, m in enumerate(modalities)
    )
    return _build(Task, described, where)


def _modality(read: Any, where: str) -> Modality:
    if isinstance(read, dict) and "fields" in read:
        cells = _list(read["fields"], f"{where}.fields")
        read = {
            **read,
            "fields": tuple(_build(Field, cell, f"{where}.fields[{i}]") for i, cell in enumerate(cells)),
        }
    return _build(Modality, read, where)


def _build(kind: type, read: Any, where: str) -> Any:
    if not isinstance(read, dict):
        raise DataError(f"{where}: is {read!r}, expected a mapping with at least {', '.join(_needed(kind))}")
    known = [field.name for field in fields(kind)]
    for key in read:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DataError(f"{where}: key {key!r} is unknown{hint}; known are {', '.join(known)}")
    for key in _needed(kind):
        if key not in read:
            raise DataError(f"{where}: key {key!r} is missing")
    try:
        return kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in read.items()}
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}") from error


def _needed(kind: type) -> list[str]:
    return [
        field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING
    ]


def _list(read: Any, where: str) -> list[Any]:
    if not isinstance(read, list | tuple):
        raise DataError(f"{where}: is {read!r}, expected a list")
    return list(read)
