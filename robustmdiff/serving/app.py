"""The routes: the KServe protocol, a raw patient, the page, health, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from robustmdiff.data.patient import Patient
from robustmdiff.serving import kserve, openapi, page, patients
from robustmdiff.serving.attributions import Ask
from robustmdiff.serving.door import Door, answered, refusal
from robustmdiff.serving.limits import Refused
from robustmdiff.serving.served import Served
from robustmdiff.serving.tensors import check

READERS = 2  # threads that decode; a picture may take a gigabyte while it is decoded
T = TypeVar("T")


class Service:
    """versions  of one model; the last is the one that answers where none is named."""

    def __init__(self, versions: Sequence[Served], door: Door) -> None:
        self.versions = {served.version: served for served in versions}
        self.default, self.door = versions[-1], door
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._runs = False

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        queues = [asyncio.create_task(served.batcher.run()) for served in self.versions.values()]
        self._runs = True
        try:
            yield
        finally:
            self._runs = False
            for queue in queues:
                queue.cancel()
                with suppress(asyncio.CancelledError):
                    await queue

    def served(self, request: Request, version: str | None) -> Served:
        """The version, noted for the audit record. Raises Refused."""
        if request.path_params.get("model", self.door.name) != self.door.name:
            raise Refused(404, f"the model is not served here, expected {self.door.name}")
        if version is not None and version not in self.versions:
            raise Refused(404, f"the version is not served here, expected {' or '.join(self.versions)}")
        request.state.served = served = self.versions[version] if version is not None else self.default
        return served

    async def read(self, function: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *given)

    async def live(self, request: Request, body: bytes) -> Response:
        return answered({"live": True})

    async def ready(self, request: Request, body: bytes) -> Response:
        if not self._runs:
            raise Refused(503, "the server does not answer yet, or any more")
        return answered({"ready": True})

    async def model_ready(self, request: Request, body: bytes) -> Response:
        served = self.served(request, request.path_params.get("version"))
        return answered({"name": self.door.name, "version": served.version, "ready": self._runs})

    async def server(self, request: Request, body: bytes) -> Response:
        return answered(
            {
                "name": "robustmdiff",
                "version": self.default.artefact.manifest.version,
                "extensions": kserve.EXTENSIONS,
            }
        )

    async def model(self, request: Request, body: bytes) -> Response:
        version = request.path_params.get("version")
        served = self.served(request, version)
        versions = [version] if version is not None else [*self.versions]
        return answered(kserve.metadata(self.door.name, versions, served.inputs, served.outputs))

    async def infer(self, request: Request, body: bytes) -> Response:
        served = self.served(request, request.path_params.get("version"))
        length = request.headers.get(kserve.HEADER_LENGTH)
        asked = await self.read(kserve.read_request, body, length, served.inputs, served.outputs)
        count = check(asked.arrays, served.artefact, self.door.limits)
        noise = {name: x for name, x in asked.arrays.items() if name in served.artefact.noise}
        arrays = served.artefact.everything(count)
        arrays |= {name: x for name, x in asked.arrays.items() if name not in noise}
        said = await served.batcher.ask(arrays, count, noise or None)
        content, headers = await self.read(kserve.write_response, self.door.name, served.version, asked, said)
        return Response(content, headers=headers)

    async def page(self, request: Request, body: bytes) -> Response:
        return Response(page.HTML, headers=page.HEADERS, media_type="text/html")

    async def task(self, request: Request, body: bytes) -> Response:
        served = self.default
        told = page.described(served.artefact.task)
        attributes = served.attributions.attribute is not None
        known = {"model": self.door.name, "version": served.version}
        able = {"attributes": attributes, "generates": served.generations.makes}
        return answered({**known, **able, **told})

    async def openapi(self, request: Request, body: bytes) -> Response:
        door = self.door
        versions = [*self.versions.values()]
        return answered(openapi.document(door.name, versions, door.limits, door.tokens is not None))

    async def predict(self, request: Request, body: bytes) -> Response:
        _query(request, "version")
        return await self._of_a_patient(request, body, lambda served: served.diagnose)

    async def explain(self, request: Request, body: bytes) -> Response:
        _query(request, "version")
        return await self._of_a_patient(request, body, lambda served: served.explain)

    async def attribute(self, request: Request, body: bytes) -> Response:
        target = _query(request, "class", "version").get("class")
        return await self._of_a_patient(
            request, body, lambda served: served.attributions.of(target, served.artefact.task)
        )

    async def generate(self, request: Request, body: bytes) -> Response:
        query = _query(request, "to", "draws", "guidance", "seed", "version")
        return await self._of_a_patient(request, body, lambda served: served.generations.of(query))

    async def _of_a_patient(self, request: Request, body: bytes, asked: Callable[[Served], Ask]) -> Response:
        """asked  what is asked of the version; it refuses before the patient is decoded"""
        served = self.served(request, request.query_params.get("version"))
        ask = asked(served)
        collator, limits = served.collator(), self.door.limits
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        patient: Patient
        if kind == "application/json":
            patient = await self.read(patients.from_json, body, collator, limits)
        elif kind == "multipart/form-data":
            parts = await patients.parts_of(body, request.headers, limits)
            patient = await self.read(patients.from_parts, parts, collator, limits)
        else:
            raise Refused(415, "Content-Type is another, expected application/json or multipart/form-data")
        answer = await ask(patient, collator)
        return answered({"model": self.door.name, "version": served.version} | dict(answer))

    async def metrics(self, request: Request, body: bytes) -> Response:
        told = self.door.metrics
        told.waiting.set(sum(served.batcher.waiting for served in self.versions.values()))
        return Response(told.text(), media_type=CONTENT_TYPE_LATEST)


def _query(request: Request, *known: str) -> Mapping[str, str]:
    """The query, of these. Raises Refused for any other: whoever misspells "version" would be answered by
    another one than was meant."""
    given = request.query_params
    if len(given.multi_items()) > len(given) or not given.keys() <= {*known}:
        expected = " or ".join(known)
        raise Refused(400, f"the query is another than this path takes, expected {expected}, once, or none")
    return given


def make_app(versions: Sequence[Served], door: Door) -> FastAPI:
    service = Service(versions, door)
    app = FastAPI(
        lifespan=service.running,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
    )

    def add(path: str, handler: Any, method: str = "GET", **how: bool) -> None:
        app.add_api_route(path, door.lets(path, handler, **how), methods=[method], response_model=None)

    add("/health", service.ready, anyone=True)
    add("/v2/health/live", service.live, anyone=True)
    add("/v2/health/ready", service.ready, anyone=True)
    add("/", service.page, anyone=True)
    add("/openapi.json", service.openapi)
    add("/task", service.task)
    add("/metrics", service.metrics)
    add("/predict", service.predict, "POST", recorded=True)
    add("/explain", service.explain, "POST", recorded=True)
    add("/attribute", service.attribute, "POST", recorded=True)
    add("/generate", service.generate, "POST", recorded=True)
    add("/v2", service.server)
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        add(path, service.model)
        add(f"{path}/ready", service.model_ready)
        add(f"{path}/infer", service.infer, "POST", recorded=True)

    async def elsewhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = {404: "there is nothing at this path", 405: "the method is another than this path takes"}
        response = refusal(Refused(error.status_code, what.get(error.status_code, "the request is not one")))
        response.headers.update(error.headers or {})  # of 405, the methods that there are
        return response

    app.add_exception_handler(HTTPException, elsewhere)
    return app
