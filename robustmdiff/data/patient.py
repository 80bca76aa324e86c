"""One patient, with whatever is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical


class DataError(Refusal):
    """Input data is not what its format promises; the message names file, row and column."""


@runtime_checkable
class StoredImage(Protocol):
    """An image that lies elsewhere and is read each time it is asked for (`pictures.read.ImageFile`)."""

    def pixels(self) -> np.ndarray:
        """float32 [channels, height, width]. Raises DataError that says where it lies and what is wrong."""
        ...


Values = Mapping[str, float | str]
Observation = np.ndarray | StoredImage | str | Values


@dataclass(frozen=True, slots=True)
class Patient:
    """What was observed of one patient.

    modalities  name to observation: for an image float32 [channels, height, width] (an array, or what
                numpy reads as one, such as a torch tensor on the CPU) or a `StoredImage`; str for a
                text; a mapping from field name to value for values (a field that was not
                measured is simply not in it). Absent modalities are None or left out; absent
                and empty differ: "" is a text that says nothing, {} a panel without a result.
    labels      classes that are known for this patient, to whether they hold. A single-label
                patient has one True. Classes left out are unknown.
    findings    findings that are known, to whether they hold.
    estimate    the probability of each class that a physician stated before the outcome was known:
                evaluation scores it beside the models, none of which reads it. Empty: nobody did.
    source      where it came from ("metadata.csv:118"), for messages.
    site, age   what missingness may depend on, where known.
    group       whom this record is of, where one person has several ("patient 20"); splits keep
                a group together. Empty: the record is a person of its own.
    """

    id: str
    modalities: Mapping[str, Observation | None]
    labels: Mapping[str, bool] = field(default_factory=dict)
    findings: Mapping[str, bool] = field(default_factory=dict)
    source: str = ""
    site: str | None = None
    age: float | None = None
    group: str = ""
    estimate: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"patient {self.id!r}" + (f" ({self.source})" if self.source else "")

    @property
    def person(self) -> str:
        """Whose record it is: the group, else the id, in the one spelling in which people are compared."""
        return canonical(self.group or self.id)

    def has(self, name: str) -> bool:
        return self.modalities.get(name) is not None
