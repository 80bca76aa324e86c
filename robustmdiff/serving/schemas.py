"""JSON Schemas of what the server takes and says, of the very task that it serves.

Two things they cannot say: which strings are pictures that can be read (the format "picture"), and that a
tensor has as many numbers as its shape asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import JSON, OPEN, PLAIN, Spec
from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.serving.generations import GUIDANCE, SEEDS
from robustmdiff.serving.kserve import DATATYPES, LONGEST_AXIS, LONGEST_ID, may_be_left_out
from robustmdiff.serving.limits import Limits

Schema = dict[str, Any]
BOOLEAN, TEXT, OBJECT = {"type": "boolean"}, {"type": "string"}, {"type": "object"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
DIFFERENCE = {"type": "number", "minimum": -1, "maximum": 1}


def record(needed: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object of these keys and no others."""
    return {
        "type": "object",
        "properties": {**needed, **(optional or {})},
        "required": [*needed],
        "additionalProperties": False,
    }


ERROR = record({"error": TEXT})


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def some_of(names: tuple[str, ...]) -> Schema:
    return {"type": "array", "items": {"enum": [*names]}, "uniqueItems": True}


def patient(task: Task, limits: Limits) -> Schema:
    return record({}, {each.name: or_null(_observation(each, limits)) for each in task.modalities})


def parts(task: Task, limits: Limits) -> Schema:
    """The same as multipart: what is missing has no part, an image is its file, and values are JSON."""
    file, own = TEXT | {"contentMediaType": "application/octet-stream"}, {}
    for each in task.modalities:
        said = _observation(each, limits)
        own[each.name] = {PLAIN: said, JSON: or_null(said)}.get(KINDS[each.kind].media, file)
    return record({}, own)


def _observation(modality: Modality, limits: Limits) -> Schema:
    kind = KINDS[modality.kind]
    if kind.media == PLAIN:
        return TEXT | {"maxLength": limits.text}
    if kind.media == JSON:
        return kind.schema(modality)
    return TEXT | {"format": "picture", "contentEncoding": "base64"}


def answer(task: Task, name: str, versions: list[str]) -> Schema:
    """The schema of an answer, whose fields are those of `robustmdiff.answer.Answer`."""
    by_class = record(dict.fromkeys(task.classes, SHARE))
    interval = record({}, {each: _list(SHARE, 2) for each in task.classes})
    return record(
        {
            "model": {"const": name},
            "version": {"enum": versions},
            "probability": by_class,
            "interval": interval,
            "prediction": some_of(task.classes),
            "findings": record({}, dict.fromkeys(task.findings, SHARE)),
            "unlike_training": or_null(BOOLEAN),
            "missing": some_of(task.modality_names),
            "answer": TEXT,
            "nothing_known": BOOLEAN,
        }
    )


def explanation(task: Task, name: str, versions: list[str]) -> Schema:
    """The answer, the contributions, and the next tests."""
    points = record(dict.fromkeys(task.classes, DIFFERENCE))
    found = answer(task, name, versions)
    more = {
        "nothing": or_null(found["properties"]["probability"]),
        "contribution": or_null(record({}, dict.fromkeys(task.modality_names, points))),
        "next_tests": or_null(_list(_next_test(task))),
    }
    return record({**found["properties"], **more})


def attribution(task: Task, name: str, versions: list[str]) -> Schema:
    """What `robustmdiff.explanation.attributed` says of a patient."""
    number = {"type": "number"}
    channel = record({"name": TEXT, "plain": TEXT, "heat": or_null(TEXT)})
    piece = record({"text": TEXT, "share": or_null(DIFFERENCE), "points": number, "unread": BOOLEAN})
    by_kind = {"image": _list(channel), "text": _list(piece)}

    def of(kind: str) -> Schema:
        return record({}, {each.name: by_kind[kind] for each in task.of_kind(kind)})

    panels = {each.name: {field.name: number for field in each.fields} for each in task.of_kind("values")}
    return record(
        {
            "model": {"const": name},
            "version": {"enum": versions},
            "target": {"enum": [*task.classes]},
            "probability": SHARE,
            "baseline": SHARE,
            "completeness_error": number,
            "total": record({}, dict.fromkeys(task.modality_names, or_null(number))),
            "images": of("image"),
            "texts": of("text"),
            "values": record({}, {each: record({}, fields) for each, fields in panels.items()}),
        }
    )


def how_to_generate(makes: Sequence[str], limits: Limits) -> list[Schema]:
    """The parameters of the query, beside the version."""

    def given(name: str, schema: Schema, **how: Any) -> Schema:
        return {"name": name, "in": "query", "schema": schema} | how

    whole: Schema = {"type": "integer", "minimum": 0}
    return [
        given("to", some_of(tuple(makes)) | {"minItems": 1}, required=True, style="form", explode=False),
        given("draws", whole | {"minimum": 1, "maximum": limits.made, "default": limits.made}),
        given("guidance", {"type": "number", "minimum": 0, "exclusiveMaximum": GUIDANCE, "default": 1}),
        given("seed", whole | {"exclusiveMaximum": SEEDS, "default": 0}),
    ]


def generation(task: Task, name: str, versions: list[str]) -> Schema:
    """What `robustmdiff.generation.imagined` makes for a patient: of an image each draw is its channels."""
    image = _list(record({"name": TEXT, "picture": TEXT}))
    by_kind = {"image": image, "text": TEXT}

    def of(kind: str) -> Schema:
        return record({}, {each.name: _list(by_kind[kind]) for each in task.of_kind(kind)})

    number = {"type": "number"}
    told = {"model": TEXT, "version": TEXT, "model_sha256": TEXT, "given": some_of(task.modality_names)}
    told |= dict.fromkeys(("draws", "guidance", "steps", "seed"), number)
    return record(
        {
            "model": {"const": name},
            "version": {"enum": versions},
            "synthetic": {"const": True},
            "how": record({}, dict.fromkeys(task.modality_names, TEXT)),
            "images": of("image"),
            "texts": of("text"),
            "unread": _list(TEXT),
            "provenance": record(told),
        }
    )


def _next_test(task: Task) -> Schema:
    """As `robustmdiff.next_test.NextTest` has it."""
    number = {"type": "number", "minimum": 0}
    told = dict.fromkeys(("expected_change", "floor", "gain"), SHARE)
    told |= dict.fromkeys(("entropy_reduction", "cost", "value"), number)
    name = {"enum": [*task.modality_names]}
    return record({"modality": name, **told, "usual_change": or_null(SHARE), "noticeable": BOOLEAN})


def _list(of: Schema, length: int | None = None) -> Schema:
    bounds = {} if length is None else {"minItems": length, "maxItems": length}
    return {"type": "array", "items": of, **bounds}


def metadata(name: str, versions: list[str]) -> Schema:
    described = record(
        {
            "name": TEXT,
            "datatype": {"enum": [*DATATYPES.values()]},
            "shape": _list({"type": "integer", "minimum": OPEN}),
        }
    )
    return record(
        {
            "name": {"const": name},
            "versions": _list({"enum": versions}),
            "platform": TEXT,
            "inputs": _list(described),
            "outputs": _list(described),
        }
    )


def infer_request(inputs: Mapping[str, Spec], outputs: Mapping[str, Spec]) -> Schema:
    wanted = record(
        {"name": {"enum": [*outputs]}}, {"parameters": or_null(record({}, {"binary_data": BOOLEAN}))}
    )
    return {
        "type": "object",
        "properties": {
            "id": TEXT | {"maxLength": LONGEST_ID},
            "parameters": or_null(record({}, {"binary_data_output": BOOLEAN})),
            "inputs": {
                "type": "array",
                "items": {"anyOf": [_given(*each) for each in inputs.items()]},
                "minItems": sum(not may_be_left_out(name) for name in inputs),
                "maxItems": len(inputs),
            },
            "outputs": or_null(_list(wanted)),
        },
        "required": ["inputs"],
    }


def _given(name: str, spec: Spec) -> Schema:
    axis = {"type": "integer", "minimum": 0, "maximum": LONGEST_AXIS}
    shape = [axis if n == OPEN else {"const": n} for n in spec.shape]
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "datatype": {"const": DATATYPES[spec.dtype.kind]},
            "shape": {"type": "array", "prefixItems": shape, "minItems": len(shape), "maxItems": len(shape)},
            "data": {"type": "array"},
            "parameters": or_null(record({}, {"binary_data_size": {"type": "integer", "minimum": 0}})),
        },
        "required": ["name", "datatype", "shape"],
    }


def infer_response(name: str, versions: list[str], outputs: Mapping[str, Spec]) -> Schema:
    size = {"type": "integer", "minimum": 0}

    def said(output: str, spec: Spec) -> Schema:
        datatype = {"const": DATATYPES[spec.dtype.kind]}
        return record(
            {"name": {"const": output}, "datatype": datatype, "shape": _list(size)},
            {"data": {"type": "array"}, "parameters": record({"binary_data_size": size})},
        )

    return record(
        {
            "model_name": {"const": name},
            "model_version": {"enum": versions},
            "outputs": _list({"anyOf": [said(*each) for each in outputs.items()]}),
        },
        {"id": TEXT},
    )
