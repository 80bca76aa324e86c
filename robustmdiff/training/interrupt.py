"""Ctrl-C that lets the step in hand finish."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupted(SystemExit):
    """Training stopped on request, its checkpoint written. Exit code 128 + signal: 130 for Ctrl-C."""


class Interrupt:
    """Inside, SIGINT and SIGTERM (what launchers and schedulers send) only set `signal`; a second
    one acts at once, as if this were not here. Outside the main thread it does nothing."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> Interrupt:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.__exit__()
