"""One exported folder that is being served: a version of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np

from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.runtime import Artefact
from robustmdiff.runtime.inputs import Arrays, feed
from robustmdiff.runtime.manifest import MANIFEST, sha256
from robustmdiff.serving.attributions import Attribute, Attributions
from robustmdiff.serving.batching import Batcher
from robustmdiff.serving.contributions import contributions, under_every_subset
from robustmdiff.serving.generations import Generate, Generations
from robustmdiff.serving.limits import Limits
from robustmdiff.serving.tensors import input_specs, output_specs


class Served:
    """Asked once on the way in: what it puts out is known then, and the engine is warm.

    manifest  the SHA-256 of its manifest, which names that of every other file; its first 12 digits are the
              version
    attribute  tells pixels and words of the run that was exported, where it is at hand
    generate  makes what a patient lacks, where a generator is at hand
    """

    def __init__(
        self,
        artefact: Artefact,
        manifest: str,
        limits: Limits,
        observed: Callable[[int], None] = lambda n: None,
        attribute: Attribute | None = None,
        generate: Generate | None = None,
    ) -> None:
        self.artefact, self.manifest, self.version = artefact, manifest, manifest[:12]
        self.limits = limits
        self.attributions = Attributions(attribute, limits)
        self.generations = Generations(generate, limits)
        self.batcher = Batcher(artefact.engine, artefact.noise, limits, observed)
        nobody = artefact.inputs(artefact.collator([Patient("", {})]))
        self.inputs = input_specs(artefact)
        self.outputs = output_specs(artefact.engine(nobody))

    @classmethod
    def load(
        cls,
        folder: Path,
        threads: int | None,
        limits: Limits,
        observed: Callable[[int], None],
        attribute: Attribute | None = None,
        generate: Generate | None = None,
    ) -> Self:
        """Raises Refusal, as `Artefact.load` does."""
        artefact = Artefact.load(folder, threads=threads)
        return cls(artefact, sha256(folder / MANIFEST), limits, observed, attribute, generate)

    def collator(self) -> Collator:
        """One for a request: a collator keeps the texts that it has seen, and a server must not."""
        own = self.artefact.collator
        return Collator(own.task, own.tokenizer, own.max_tokens)

    async def diagnose(self, patient: Patient, collator: Collator) -> Mapping[str, Any]:
        """The `Answer`, without the patient's id."""
        batch = collator([patient])
        return self._answer(batch, await self._ask(feed(batch, self.artefact.task), 1))

    async def _ask(self, arrays: Arrays, patients: int) -> Arrays:
        """Of patients under a view of their own, or everything."""
        return await self.batcher.ask(self.artefact.everything(patients) | arrays, patients)

    async def explain(self, patient: Patient, collator: Collator) -> Mapping[str, Any]:
        """That, the `contributions` of its modalities and the `next_tests`. `contribution` is None where they
        have more subsets than one call of the engine takes patients, `next_tests` where the model cannot say.
        """
        explained, tests = await asyncio.gather(
            self._contributions(patient, collator), self._next_tests(patient, collator)
        )
        return {**explained, "next_tests": tests}

    async def _contributions(self, patient: Patient, collator: Collator) -> Mapping[str, Any]:
        names = [name for name in self.artefact.task.modality_names if name in patient.modalities]
        if 2 ** len(names) > self.limits.patients:
            return {**await self.diagnose(patient, collator), "nothing": None, "contribution": None}
        batch = collator([patient])
        arrays = under_every_subset(feed(batch, self.artefact.task), names)
        said = await self._ask(arrays, 2 ** len(names))
        whole = {name: x[-1:] for name, x in said.items()}
        told = contributions(said["probability"], names, self.artefact.task)
        return {**self._answer(batch, whole), **told}

    async def _next_tests(self, patient: Patient, collator: Collator) -> list[dict[str, Any]] | None:
        if not self.artefact.manifest.together:
            return None
        names, arrays = self.artefact.with_one_more(feed(collator([patient]), self.artefact.task))
        if not names:
            return []
        tests = self.artefact.next_tests(names, await self.batcher.ask(arrays, len(names)))
        return [asdict(test) | {"noticeable": test.noticeable} for test in tests]

    def _answer(self, batch: Batch[np.ndarray], said: Arrays) -> dict[str, Any]:
        (answer,) = self.artefact.answers(batch, said)
        return {key: value for key, value in asdict(answer).items() if key != "patient"}
