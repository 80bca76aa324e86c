"""The paths of the server as OpenAPI 3.1, at /openapi.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import JSON, PLAIN
from robustmdiff.serving import schemas
from robustmdiff.serving.kserve import HEADER_LENGTH
from robustmdiff.serving.limits import Limits
from robustmdiff.serving.schemas import BOOLEAN, ERROR, OBJECT, TEXT, Schema, record
from robustmdiff.serving.served import Served

REASONS = {
    400: "It is not what the path takes.",
    401: "The token is none that is known.",
    404: "It is not served here.",
    408: "The body came too slowly.",
    413: "It is too long.",
    415: "The Content-Type is another, or the body is compressed.",
    422: "It is no patient of this model.",
    500: "The server failed; its log tells by the X-Request-Id.",
    503: "The server is full, or ends; try later.",
    504: "There was no answer in time.",
}
ANY = (400, 408, 413, 415, 500, 503, 504)  # of any request, since any may have a body
HEADERS = {"X-Request-Id": {"schema": TEXT}}


def document(name: str, versions: Sequence[Served], limits: Limits, token: bool) -> Schema:
    """versions  of one task
    token     whether one is asked for
    """
    last = versions[-1]
    task, known = last.artefact.task, [served.version for served in versions]
    makes = last.generations.makes or task.modality_names  # of none, each is answered by 404
    media = {each.name: KINDS[each.kind].media for each in task.modalities}

    def operation(
        what: str, said: Schema, *more: int, kind: str = JSON, anyone: bool = False, **how: Any
    ) -> Schema:
        codes = {*ANY, *more, *([401] if token and not anyone else [])}
        refused = {str(code): _said(REASONS[code], ERROR) for code in sorted(codes)}
        guard: Schema = {} if anyone or not token else {"security": [{"token": []}]}
        return {"summary": what, "responses": {"200": _said("OK", said, kind), **refused}} | guard | how

    version = {"name": "version", "in": "query", "schema": {"enum": known}}
    target = {"name": "class", "in": "query", "required": True, "schema": {"enum": [*task.classes]}}
    of_a_patient: dict[str, Any] = {
        "parameters": [version],
        "requestBody": _body(
            **{
                JSON: {"schema": schemas.patient(task, limits)},
                "multipart/form-data": {
                    "schema": schemas.parts(task, limits),
                    "encoding": {
                        name: {"contentType": of} for name, of in media.items() if of not in (PLAIN, JSON)
                    },
                },
            }
        ),
    }
    of_tensors: dict[str, Any] = {
        "parameters": [{"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}}],
        "requestBody": _body(**{JSON: {"schema": schemas.infer_request(last.inputs, last.outputs)}}),
    }
    answer, explained = (each(task, name, known) for each in (schemas.answer, schemas.explanation))
    ready = operation("It answers.", record({"ready": {"const": True}}), anyone=True)
    server = record({"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}})
    paths: dict[str, Schema] = {
        "/": {"get": operation("The web page.", TEXT, kind="text/html", anyone=True)},
        "/openapi.json": {"get": operation("This.", OBJECT)},
        "/task": {"get": operation("What the page's form is made of.", OBJECT)},
        "/health": {"get": ready},
        "/metrics": {"get": operation("Prometheus.", TEXT, kind="text/plain")},
        "/predict": {"post": operation("Diagnose a patient.", answer, 404, 422, **of_a_patient)},
        "/explain": {
            "post": operation(
                "And what modalities contributed, and would change.",
                explained,
                404,
                422,
                **of_a_patient,
            )
        },
        "/attribute": {
            "post": operation(
                "Which pixels, words and values speak for a class; 404 without a run.",
                schemas.attribution(task, name, known),
                404,
                422,
                **of_a_patient | {"parameters": [version, target]},
            )
        },
        "/generate": {
            "post": operation(
                "What a missing modality might look like, synthetic; 404 without a generator.",
                schemas.generation(task, name, known),
                404,
                422,
                **of_a_patient | {"parameters": [version, *schemas.how_to_generate(makes, limits)]},
            )
        },
        "/v2": {"get": operation("The server.", server)},
        "/v2/health/live": {"get": operation("It runs.", record({"live": {"const": True}}), anyone=True)},
        "/v2/health/ready": {"get": ready},
    }
    told = schemas.metadata(name, known)
    model_ready = record({"name": {"const": name}, "version": {"enum": known}, "ready": BOOLEAN})
    inferred = schemas.infer_response(name, known, last.outputs)
    where = [_in_path("model", [name])]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        infer = operation("Ask it by tensors.", inferred, 404, **of_tensors)
        infer["responses"]["200"]["content"]["application/octet-stream"] = {}
        paths[path] = {"parameters": where, "get": operation("The model.", told, 404)}
        paths[f"{path}/ready"] = {"parameters": where, "get": operation("It answers.", model_ready, 404)}
        paths[f"{path}/infer"] = {"parameters": where, "post": infer}
        where = [*where, _in_path("version", known)]
    schemes = {"token": {"type": "http", "scheme": "bearer"}} if token else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"RobustMDiff: {name}", "version": last.version},
        "paths": paths,
        "components": {"securitySchemes": schemes},
    }


def _said(why: str, schema: Schema, kind: str = JSON) -> Schema:
    return {"description": why, "headers": HEADERS, "content": {kind: {"schema": schema}}}


def _body(**content: Schema) -> Schema:
    return {"required": True, "content": content}


def _in_path(name: str, values: Sequence[str]) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"enum": [*values]}}
