"""Calls that take seconds, in a thread beside the engine: one at a time, of whom too many wait no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from robustmdiff.serving.limits import Refused

T = TypeVar("T")


class OneByOne:
    """name  of the thread
    most  patients who may wait, and be answered, at a time
    """

    def __init__(self, name: str, most: int) -> None:
        self.most = most
        self.waiting = 0  # and being answered
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def ask(self, function: Callable[..., T], *given: Any) -> T:
        """function(*given). Raises Refused where too many wait."""
        if self.waiting >= self.most:
            raise Refused(503, f"{self.most} patients are waiting already, expected a later try")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *given)
        finally:
            self.waiting -= 1
