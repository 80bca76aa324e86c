"""What a missing modality might look like, by whoever was given to the server to make it: nothing here needs
torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.serving.attributions import Ask
from robustmdiff.serving.limits import Limits, Refused
from robustmdiff.serving.one_by_one import OneByOne

SEEDS, GUIDANCE = 2**32, 100  # that there are; and that no guidance reaches
WHOLE = re.compile("[0-9]{1,10}")
NUMBER = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")


class Generate(Protocol):
    """`robustmdiff.generation.imagined.Imaginer` is one; makes: names of the modalities that it can make."""

    @property
    def makes(self) -> Sequence[str]: ...

    def __call__(
        self, patient: Patient, to: Sequence[str], draws: int, guidance: float, seed: int
    ) -> Mapping[str, Any]: ...


class Generations:
    """generate  None: the server was started without a generator"""

    def __init__(self, generate: Generate | None, limits: Limits) -> None:
        self.generate, self.limits = generate, limits
        self.makes = () if generate is None else tuple(generate.makes)
        self.queue = OneByOne("generation", limits.generations)

    def of(self, query: Mapping[str, str]) -> Ask:
        """So many draws of what the query names. Raises Refused for what is not made here: before a patient
        is read."""
        generate = self.generate
        if generate is None:
            raise Refused(
                404, "synthetic images and texts need torch, expected a server started with --generator"
            )
        to = query.get("to", "").split(",")
        if not {*to} <= {*self.makes} or len({*to}) < len(to):
            made = ", ".join(self.makes)
            raise Refused(400, f"the query names no modality that is made here, expected to=SOME of {made}")
        most = self.limits.made
        draws = _number(query, "draws", WHOLE, most)
        if not 1 <= draws <= most:
            raise Refused(400, f"draws is another number than is made here, expected 1 to {most}")
        guidance = _number(query, "guidance", NUMBER, 1)
        if not 0 <= guidance < GUIDANCE:
            raise Refused(400, f"guidance is out of its range, expected a number from 0 to below {GUIDANCE}")
        seed = _number(query, "seed", WHOLE, 0)
        if seed >= SEEDS:
            raise Refused(400, f"seed is too large, expected a whole number below {SEEDS}")

        async def ask(patient: Patient, collator: Collator) -> Mapping[str, Any]:
            return await self.queue.ask(generate, patient, to, int(draws), float(guidance), int(seed))

        return ask


def _number(query: Mapping[str, str], name: str, form: re.Pattern[str], default: float) -> float:
    text = query.get(name, str(default))
    if not form.fullmatch(text):
        whole = "whole " if form is WHOLE else ""
        raise Refused(400, f"{name} is not a number that can be read, expected a {whole}number")
    return float(text)
