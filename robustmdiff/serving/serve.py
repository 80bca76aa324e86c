"""The server as a process: from its socket to its last answer."""

from __future__ import annotations

import asyncio
import logging
import signal
import warnings
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from robustmdiff.serving.limits import Limits


def run(
    app: FastAPI,
    host: str,
    port: int,
    limits: Limits,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Until SIGTERM or SIGINT: then nobody is let in any more, and whoever is inside is answered."""
    _keep_quiet()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Impatient,
        ws="none",
        access_log=False,  # paths are the client's; the audit record has what counts
        server_header=False,
        log_level="info",
        timeout_keep_alive=limits.idle,
        timeout_graceful_shutdown=int(2 * limits.seconds) + 1,  # a body, and its answer
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = uvicorn.Server(config)
    for ends in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # before uvicorn listens to them, and when it raises them again
        signal.signal(ends, lambda number, frame: setattr(server, "should_exit", True))
    server.run()


class Impatient(H11Protocol):
    """Closes a connection whose first request has no head in time: uvicorn waits for it for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.timeout_keep_alive, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()


def _keep_quiet() -> None:
    """Libraries that read files warn and log what they find there, which may be names: nothing of it goes
    anywhere."""
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
