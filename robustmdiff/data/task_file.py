"""A `Task` as a small JSON or YAML file.

Every value is read as what its key asks for: a name as text, a number as a number. In YAML an
unquoted word is the text that was written wherever a name is expected (yes, no, 1_000, 12:30,
2024-01-01 are categories like any other) and a number where a number is; JSON says itself what is
text. What is neither is refused by the file and the path of the key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from reprlib import repr as brief
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.task import Task, check_kind
from robustmdiff.spelling import did_you_mean

NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")


class Word(str):
    """A YAML scalar without quotes: what it means depends on what is expected."""


def read_task_file(path: Path) -> dict[str, Any]:
    """The file as a mapping, JSON or (by its suffix) YAML. DataError for a key that is there twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        read = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else _yaml(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}), expected JSON or YAML") from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply, expected JSON or YAML of a task") from error
    if not isinstance(read, dict):
        raise DataError(f"{path}: holds {_plain(read)}, expected a mapping with 'modalities' and 'classes'")
    return read


def task_from(read: Mapping[str, Any], where: str, prevalence: tuple[float, ...] | None = None) -> Task:
    """The `Task` that a mapping describes by the names of its dataclass fields; a key that is none
    of them is an error. `prevalence` serves where the mapping has none."""
    described = dict(read)
    if prevalence is not None:
        described.setdefault("prevalence", prevalence)
    return _build(Task, described, where, separator=": ")


def names_from(read: Any, where: str) -> tuple[str, ...]:
    """A list of texts, such as the classes."""
    return _read(tuple[str, ...], read, where)


def _build(kind: type, read: Any, where: str, separator: str = ".") -> Any:
    """A Task, Modality or Field of what a mapping says of it."""
    if not isinstance(read, Mapping):
        raise DataError(
            f"{where} is {_plain(read)}, expected a mapping with at least {', '.join(_needed(kind))}"
        )
    known = [field.name for field in fields(kind)]
    for key in read:
        if key not in known:
            hint = did_you_mean(key, known)
            raise DataError(f"{where}: key {key!r} is unknown{hint}; known are {', '.join(known)}")
    for key in _needed(kind):
        if key not in read:
            raise DataError(f"{where}: key {key!r} is missing")
    types = get_type_hints(kind)
    values = {key: _read(types[key], value, f"{where}{separator}{key}") for key, value in read.items()}
    try:
        built = kind(**values)
        if isinstance(built, Modality):
            check_kind(built)  # as its task would, which cannot say where it is written
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return built


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation of a dataclass's field has it."""
    if is_dataclass(kind):
        return _build(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) in (Union, UnionType):
        return _first_that_fits(get_args(kind), value, where)
    if get_origin(kind) is tuple:
        return _tuple(get_args(kind), value, where)
    if kind is str or get_origin(kind) is Literal:
        if isinstance(value, str):
            return str(value)
        hint = f' (in quotes: "{_plain(value)}")' if isinstance(value, bool | int | float) else ""
        raise DataError(f"{where} is {_plain(value)}, expected text" + hint)
    if kind is bool:
        if isinstance(value, Word) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if isinstance(value, bool):
            return value
        raise DataError(f"{where} is {_plain(value)}, expected true or false")
    return _number(kind, value, where)


def _first_that_fits(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """The value as one of these kinds: of `X | None`, None is what JSON and YAML write as nothing."""
    if type(None) in kinds and (value is None or (isinstance(value, Word) and value in ("", "~", "null"))):
        return None
    refused = None
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            return _read(kind, value, where)
        except DataError as error:
            refused = refused or error
    assert refused is not None  # a union has a member besides None
    raise refused


def _tuple(kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    many = kinds[-1] is Ellipsis
    if not isinstance(value, list | tuple) or (not many and len(value) != len(kinds)):
        raise DataError(f"{where} is {_plain(value)}, expected a list" + (f" of {len(kinds)}" * (not many)))
    of = [kinds[0]] * len(value) if many else kinds
    return tuple(_read(of[i], item, f"{where}[{i}]") for i, item in enumerate(value))


def _number(kind: type, value: Any, where: str) -> int | float:
    """A whole number for int, else a finite one."""
    if isinstance(value, Word) and any(map(str.isdigit, value)) and NUMBER.fullmatch(value):
        value = int(value) if re.fullmatch("[-+]?[0-9]+", value) else float(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and (kind is int or not isinstance(value, float) or not math.isfinite(value)):
        expected = "a whole number" if kind is int else "a finite number"
        raise DataError(f"{where} is {_plain(value)}, expected {expected}")
    return value


def _yaml(text: str) -> Any:
    """YAML whose unquoted scalars are `Word`s: which of them are numbers, the task's keys know."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            _once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return node

    def scalar(loader: Any, node: Any) -> str:
        return node.value if node.style else Word(node.value)

    Loader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}
    Loader.add_constructor("tag:yaml.org,2002:str", scalar)
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The pairs as a dict; of a key that is there twice, neither value is better."""
    read: dict[Any, Any] = {}
    for key, value in pairs:
        if key in read:
            raise ValueError(f"key {key!r} is there twice")
        read[key] = value
    return read


def _plain(value: Any) -> str:
    """A value as JSON writes it, cut short."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return brief(str(value) if isinstance(value, Word) else value)


def _needed(kind: type) -> list[str]:
    return [
        field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING
    ]
