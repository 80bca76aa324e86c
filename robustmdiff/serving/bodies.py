"""The bodies of requests, counted while they come: a length that a client states is no promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from robustmdiff.serving.limits import Limits, Refused


class Bodies:
    """The bodies of requests that are being read or answered, and how much memory they hold."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0  # bytes

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body. Raises Refused for one that is too long, compressed, slow or broken off."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "Content-Encoding is not taken, expected a body that is not compressed")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.body:
            raise self._too_long()
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self.limits.seconds):
                    async for chunk in request.stream():
                        self.held += len(chunk)
                        body += chunk
                        if len(body) > self.limits.body:
                            raise self._too_long()
                        if self.held > self.limits.held:
                            raise Refused(
                                503, "the server reads as much as it can hold, expected a later try"
                            )
            except TimeoutError:
                sentence = f"the body did not come within {self.limits.seconds:g} seconds"
                raise Refused(408, sentence) from None
            except ClientDisconnect:
                raise Refused(400, "the client ended the connection before its request was whole") from None
            yield bytes(body)
        finally:
            self.held -= len(body)

    def _too_long(self) -> Refused:
        return Refused(413, f"the body is too long, expected at most {self.limits.body} bytes")
