"""What happens to every request, whatever it asks: who is it, how long may it take, how did it end."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from robustmdiff.serving.audit import Audit, Entry
from robustmdiff.serving.bodies import Bodies
from robustmdiff.serving.limits import Limits, Refused
from robustmdiff.serving.metrics import Metrics
from robustmdiff.serving.served import Served
from robustmdiff.serving.tokens import Tokens

LOG = logging.getLogger("uvicorn.error")  # the server's own
Handler = Callable[[Request, bytes], Awaitable[Response]]


class Door:
    """tokens  None: whoever reaches the server may ask
    audit   None: no record is kept
    """

    def __init__(
        self, name: str, limits: Limits, metrics: Metrics, tokens: Tokens | None, audit: Audit | None
    ) -> None:
        self.name, self.limits, self.metrics, self.tokens, self.audit = name, limits, metrics, tokens, audit
        self.bodies = Bodies(limits)
        self._inside = 0

    def lets(
        self, route: str, handler: Handler, *, anyone: bool = False, recorded: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        """The handler of a route, guarded.

        anyone    no token is asked for
        recorded  in the audit record: before the answer goes out, so that none goes out without
        """

        async def answer(request: Request) -> Response:
            began, id, who = perf_counter(), uuid4().hex, None
            try:
                if self.tokens is not None and not anyone:
                    who = self.tokens.whose(request.headers.get("authorization", ""))
                    request.state.who = who
                response = await self._answer(request, handler)
            except Refused as error:
                response = refusal(error)
            except Exception as error:  # its message may quote what came
                LOG.error("request %s: %s", id, _place(error))
                response = refusal(Refused(500, "the server failed, which its log tells by the X-Request-Id"))
            if recorded:
                response = self._recorded(request, response, id, route, who)
            response.headers["X-Request-Id"] = id
            self.metrics.requests.labels(route, str(response.status_code)).inc()
            self.metrics.seconds.labels(route).observe(perf_counter() - began)
            return response

        return answer

    async def _answer(self, request: Request, handler: Handler) -> Response:
        async with self.bodies.read(request) as body:
            if self._inside >= self.limits.requests:
                raise Refused(
                    503, f"{self.limits.requests} requests are being answered, expected a later try"
                )
            self._inside += 1
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return await handler(request, body)
            except TimeoutError:
                sentence = f"there was no answer within {self.limits.seconds:g} seconds"
                raise Refused(504, sentence) from None
            finally:
                self._inside -= 1

    def _recorded(
        self, request: Request, response: Response, id: str, route: str, who: str | None
    ) -> Response:
        if self.audit is None:
            return response
        served: Served | None = getattr(request.state, "served", None)
        version, manifest = (served.version, served.manifest) if served else (None, None)
        try:
            self.audit.write(Entry(id, route, who, self.name, version, manifest, response.status_code))
        except OSError as error:
            LOG.error("request %s: the audit record: %s", id, error.strerror)
            return refusal(Refused(503, "no record can be kept of what is asked, expected a later try"))
        return response


def answered(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON. Raises ValueError for NaN, which it has not."""
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")


def refusal(error: Refused) -> Response:
    """The connection ends with it: of a request that was not read whole, more would come."""
    return answered({"error": error.sentence}, error.status, error.headers | {"Connection": "close"})


def _place(error: Exception) -> str:
    """Where it was raised, without what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join([type(error).__name__, *(f"{f.filename}:{f.lineno}" for f in reversed(frames[-4:]))])
