"""Pixels, words and values, by whoever was given to the server to tell them: nothing here needs torch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.serving.limits import Limits, Refused
from robustmdiff.serving.one_by_one import OneByOne

Attribute = Callable[[Patient, Collator, str], Mapping[str, Any]]
Ask = Callable[[Patient, Collator], Awaitable[Mapping[str, Any]]]


class Attributions:
    """attribute  None: the server was started without a run"""

    def __init__(self, attribute: Attribute | None, limits: Limits) -> None:
        self.attribute = attribute
        self.queue = OneByOne("attribution", limits.attributions)

    def of(self, target: str | None, task: Task) -> Ask:
        """What each part of a patient did for the class `target`. Raises Refused where nobody is told that:
        before a patient is read."""
        attribute = self.attribute
        if attribute is None:
            raise Refused(
                404, "pixels and words need torch and the run, expected a server started with --run"
            )
        if target not in task.classes:
            raise Refused(400, "the query names no class of this model, expected class=CLASS, one of /task's")

        async def ask(patient: Patient, collator: Collator) -> Mapping[str, Any]:
            return await self.queue.ask(attribute, patient, collator, target)

        return ask
