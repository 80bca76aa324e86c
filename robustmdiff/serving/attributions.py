"""Pixels, words and values, by whoever was given to the server to tell them: nothing here needs torch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.serving.limits import Limits, Refused

Attribute = Callable[[Patient, Collator, str], Mapping[str, Any]]


class Attributions:
    """The queue before `attribute`, which takes seconds: one patient at a time.

    attribute  None: the server was started without a run
    """

    def __init__(self, attribute: Attribute | None, limits: Limits) -> None:
        self.attribute, self.limits = attribute, limits
        self.waiting = 0  # and being answered
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="attribution")

    async def ask(self, patient: Patient, collator: Collator, target: str | None) -> Mapping[str, Any]:
        """What each part of the patient did for the class `target`. Raises Refused."""
        if self.attribute is None:
            raise Refused(
                404, "pixels and words need torch and the run, expected a server started with --run"
            )
        if target not in collator.task.classes:
            raise Refused(400, "the query names no class of this model, expected class=CLASS, one of /task's")
        if self.waiting >= self.limits.attributions:
            raise Refused(
                503, f"{self.limits.attributions} patients are waiting already, expected a later try"
            )
        self.waiting += 1
        try:
            call = asyncio.get_running_loop().run_in_executor
            return await call(self._pool, self.attribute, patient, collator, target)
        finally:
            self.waiting -= 1
