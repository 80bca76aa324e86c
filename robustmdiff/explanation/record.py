"""Everything that is to be said about one patient's diagnosis, as plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from robustmdiff.data.kinds.text import Word
from robustmdiff.data.modality import Field
from robustmdiff.next_test import NextTest
from robustmdiff.training.notes import Note


@dataclass(frozen=True)
class ClassRow:
    """low, high: 5 % and 95 % of the draws, None where none were made. in_set, recorded: None where not
    known. evidence: nats for (+) or against (-) the class, by modality; none where it is read for
    findings."""

    name: str
    probability: float
    low: float | None
    high: float | None
    prevalence: float
    rare: bool
    in_set: bool | None
    recorded: bool | None
    evidence: dict[str, float]


@dataclass(frozen=True)
class ModalityRow:
    """What one modality did for the target class. contribution: its Shapley value; gradient_share:
    |dp_c/dH_i| as a share of all modalities'; attributed: the sum of its integrated gradients (None
    where they do not reach it). All None if absent."""

    name: str
    kind: str
    present: bool
    contribution: float | None = None
    gradient_share: float | None = None
    attributed: float | None = None


@dataclass(frozen=True)
class FindingRow:
    """evidence: nats for (+) or against (-) the finding, by modality."""

    name: str
    probability: float
    evidence: dict[str, float]


@dataclass(frozen=True)
class ConceptRow:
    """weight: the share of the knowledge attention that a concept got, mean over heads and
    modalities; modality: the one that asked for it most."""

    name: str
    kind: str
    modality: str
    weight: float


@dataclass(frozen=True)
class CellRow:
    """status: "high", "low", "within" or "" where there is no reference range."""

    field: Field
    value: float | str
    status: str
    attribution: float | None


@dataclass(frozen=True)
class Panel:
    """cells: what was measured; not_measured: the names of the fields that were not."""

    cells: tuple[CellRow, ...]
    not_measured: tuple[str, ...]


@dataclass(frozen=True)
class ImageView:
    """pixels and heat (None where not attributed) [C, H, W]; channels and window as in Modality."""

    name: str
    channels: tuple[str, ...]
    pixels: Tensor
    window: tuple[float, float]
    heat: Tensor | None


@dataclass(frozen=True)
class TextView:
    name: str
    text: str
    words: tuple[Word, ...]  # () where not attributed


@dataclass(frozen=True)
class PredictionSet:
    """level: 1 - alpha; group and patients: which calibration patients answer for the target class, in words
    ("with a rare class and 3 modalities"), and how many people they are."""

    level: float
    group: str
    patients: int


@dataclass(frozen=True)
class PatientExplanation:
    """target is the class that is explained; concepts are none where the model was given no ontology;
    notes are those of the model's training. answer says whose the probabilities are: a head's, or the mean of
    the draws (`Diagnosis.answer`). direct, baseline and completeness_error are those of
    Attribution; nothing and everything are the ends between which the Shapley values lead."""

    id: str
    source: str
    site: str | None
    age: float | None
    target: str
    multilabel: bool
    classes: tuple[ClassRow, ...]  # most probable first
    modalities: tuple[ModalityRow, ...]
    findings: tuple[FindingRow, ...]
    concepts: tuple[ConceptRow, ...]
    images: tuple[ImageView, ...]
    texts: tuple[TextView, ...]
    panels: dict[str, Panel]
    next_tests: tuple[NextTest, ...] | None  # None of a model that forecasts nothing
    prediction_set: PredictionSet | None
    unlike_training: bool | None
    direct: float
    baseline: float
    completeness_error: float
    nothing: float
    everything: float
    answer: str
    draws: int
    seed: int
    checkpoint: str
    notes: tuple[Note, ...]

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modalities if m.present)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modalities if not m.present)

    @property
    def drawn(self) -> bool:
        """Whether there are draws to tell of."""
        return self.classes[0].low is not None

    def to_json(self) -> dict[str, Any]:
        """In JSON's types, all of it but the images' own pixels; heat maps as nested lists [C][H][W]."""
        found = asdict(self) | {"present": self.present, "missing": self.missing}
        found["images"] = [
            {
                "name": i.name,
                "channels": i.channels,
                "heat": None if i.heat is None else _rounded(i.heat.tolist()),
            }
            for i in self.images
        ]
        found["notes"] = [note._asdict() for note in self.notes]
        return json.loads(json.dumps(found, allow_nan=False))


def _rounded(x: object) -> object:
    return [_rounded(y) for y in x] if isinstance(x, list) else float(f"{x:.3g}")
