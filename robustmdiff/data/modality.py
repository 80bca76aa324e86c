"""What a modality is: its name, its kind, and how its values are to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["image", "text", "values"]


@dataclass(frozen=True)
class Field:
    """One cell of a `values` modality: a laboratory value, a vital sign, a code, a genotype.

    A numeric field has a unit and, where known, a reference range (low, high) in that
    unit. A categorical field names its categories; a patient's value is one of them.
    """

    name: str
    unit: str = ""
    reference: tuple[float, float] | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Modality:
    """A source of information about a patient, present or absent as a whole.

    kind      "image": float32 [channels, height, width] (CT slices and MRI contrasts are
              channels); "text": str; "values": mapping from field name to number or category.
    shape     image only: (channels, height, width).
    window    image only: the intensities (low, high) that map to -1 and 1, in the image's
              own unit (HU for CT); values outside are clipped, but those of the default, which
              is for shares of full scale, must not be. "file": each DICOM file's own.
    bits      image only: how many bits the files use whose samples are deeper than 8 bits, where
              that is fewer (12: 4095 counts as 1); None: all of the samples, or what the file says.
    fields    values only.
    encoder   None for the kind's own small encoder, a transformers `AutoModel` name or path,
              or "package.module:Class" for a user's own.
    cost      relative cost of obtaining it, for the ranking of the next test.
    """

    name: str
    kind: Kind
    shape: tuple[int, int, int] | None = None
    window: tuple[float, float] | Literal["file"] = (0.0, 1.0)
    bits: int | None = None
    fields: tuple[Field, ...] = ()
    encoder: str | None = None
    cost: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("image", "text", "values"):
            raise ValueError(
                f"Modality {self.name!r}: kind is {self.kind!r}, expected 'image', 'text' or 'values'"
            )
        if self.kind == "image" and (self.shape is None or len(self.shape) != 3 or min(self.shape) < 1):
            raise ValueError(
                f"Modality {self.name!r}: shape is {self.shape}, expected (channels, height, width)"
            )
        if self.kind == "image" and not self._window_is_right():
            raise ValueError(
                f"Modality {self.name!r}: window is {self.window!r}, expected (low, high) with low < high, "
                'or "file"'
            )
        if self.bits is not None and not (type(self.bits) is int and 8 <= self.bits <= 32):
            raise ValueError(f"Modality {self.name!r}: bits is {self.bits!r}, expected 8 to 32, or None")
        if self.kind == "values" and not self.fields:
            raise ValueError(f"Modality {self.name!r}: fields is empty, expected at least one Field")
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError(f"Modality {self.name!r}: fields are {names}, expected distinct names")
        if not self.cost > 0:
            raise ValueError(f"Modality {self.name!r}: cost is {self.cost}, expected a positive number")

    @property
    def low_high(self) -> tuple[float, float]:
        """The intensities that map to -1 and 1; a file's own window has made them 0 and 1."""
        return (0.0, 1.0) if self.window == "file" else self.window

    def _window_is_right(self) -> bool:
        if isinstance(self.window, str):
            return self.window == "file"
        return len(self.window) == 2 and -math.inf < self.window[0] < self.window[1] < math.inf


@dataclass(frozen=True)
class Task:
    """What is to be diagnosed, from what.

    classes     in label order; with `multilabel` each is its own yes or no.
    prevalence  of each class in the population, same order (sums to 1 unless multilabel).
    rare        the classes that count as rare in every table.
    findings    names of findings that may be labelled and serve as concepts.
    """

    modalities: tuple[Modality, ...]
    classes: tuple[str, ...]
    prevalence: tuple[float, ...]
    multilabel: bool = False
    rare: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 1 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"Task: classes are {self.classes}, expected distinct names, at least one")
        if len(self.prevalence) != len(self.classes) or any(not 0 <= p <= 1 for p in self.prevalence):
            raise ValueError(
                f"Task: prevalence is {self.prevalence}, expected {len(self.classes)} numbers in [0, 1]"
            )
        unknown = sorted(set(self.rare) - set(self.classes))
        if unknown:
            raise ValueError(f"Task: rare names {unknown}, expected some of the classes {self.classes}")
        names = self.modality_names
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Task: modalities are {names}, expected distinct names, at least one")

    @property
    def modality_names(self) -> tuple[str, ...]:
        return tuple(modality.name for modality in self.modalities)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` takes them."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Task:
        modalities = [
            Modality(**{**_tuples(m), "fields": tuple(Field(**_tuples(f)) for f in m["fields"])})
            for m in plain["modalities"]
        ]
        return cls(**{**_tuples(plain), "modalities": tuple(modalities)})

    def modality(self, name: str) -> Modality:
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise KeyError(f"unknown modality {name!r}, expected one of {', '.join(self.modality_names)}")


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
