"""Requests side by side in one call of the engine.

The engine takes little longer for several patients than for one, so that whoever comes while it computes is
answered together afterwards. One call at a time: an engine uses all cores that it is given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from robustmdiff.runtime.artefact import Engine
from robustmdiff.runtime.inputs import Arrays
from robustmdiff.serving.limits import Limits, Refused
from robustmdiff.serving.tensors import join, split


@dataclass
class Job:
    """arrays    of the graph, without noise
    patients  that they are of
    noise     of its own; a job that brings some is computed alone
    """

    arrays: Arrays
    patients: int
    noise: Arrays | None
    said: asyncio.Future[Arrays] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """The queue before one engine.

    noise     what draws are made of where a job brings none
    observed  is told the patients of each call
    """

    def __init__(
        self, engine: Engine, noise: Arrays, limits: Limits, observed: Callable[[int], None] = lambda n: None
    ) -> None:
        self.engine, self.noise, self.limits, self.observed = engine, noise, limits, observed
        self._jobs: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def waiting(self) -> int:
        """Patients who are not yet with the engine, and whose request has not ended."""
        return sum(job.patients for job in self._jobs if not job.said.done())

    async def ask(self, arrays: Arrays, patients: int, noise: Arrays | None = None) -> Arrays:
        """The engine's answer. Raises Refused where the queue is full. Cancelled, it leaves the queue."""
        if self.waiting + patients > self.limits.waiting:
            raise Refused(503, f"{self.limits.waiting} patients are waiting already, expected a later try")
        job = Job(arrays, patients, noise)
        self._jobs.append(job)
        self._arrived.set()
        return await job.said

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._arrived.wait()
            if self.waiting < self.limits.patients:
                await asyncio.sleep(self.limits.wait)
            if jobs := self._next():
                await self._answer(jobs)

    def _next(self) -> list[Job]:
        """Those who are answered together, the longest waiting first."""
        found: list[Job] = []
        while self._jobs:
            job = self._jobs[0]
            if not job.said.done():
                patients = job.patients + sum(other.patients for other in found)
                alone = job.noise is not None or (found and found[0].noise is not None)
                if found and (alone or patients > self.limits.patients):
                    return found
                found.append(job)
            self._jobs.popleft()
        self._arrived.clear()
        return found

    async def _answer(self, jobs: Sequence[Job]) -> None:
        patients = [job.patients for job in jobs]
        try:
            said = await asyncio.get_running_loop().run_in_executor(self._pool, self._compute, jobs)
        except Exception as error:
            if len(jobs) > 1:  # whoever is to blame shall fail alone
                for job in jobs:
                    await self._answer([job])
            elif not jobs[0].said.done():
                jobs[0].said.set_exception(error)
            return
        self.observed(sum(patients))
        for job, own in zip(jobs, split(said, patients), strict=True):
            if not job.said.done():
                job.said.set_result(own)

    def _compute(self, jobs: Sequence[Job]) -> Arrays:
        return self.engine(join([job.arrays for job in jobs]) | (jobs[0].noise or self.noise))
