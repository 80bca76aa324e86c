"""What a model knows before it sees a patient: concepts, how they relate, how common they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConceptTable:
    """k concepts (diseases and findings) and the relations between them.

    id, name     k strings each.
    definition   k strings, "" where the source gives none.
    kind         k strings, "disease" or "finding".
    prevalence   float32 [k], fraction of the population, NaN where unknown.
    source, target, relation
                 int64 [E]: edge e says that `source[e]` informs `target[e]` by relation
                 `relations[relation[e]]` ("is_a", "has_phenotype", and their inverses).
    frequency    float32 [diseases, findings] P(finding | disease) from frequency bands, NaN
                 where nothing is stated; rows and columns in the order in which diseases and
                 findings appear in `kind`.
    """

    id: tuple[str, ...]
    name: tuple[str, ...]
    definition: tuple[str, ...]
    kind: tuple[str, ...]
    prevalence: np.ndarray
    source: np.ndarray
    target: np.ndarray
    relation: np.ndarray
    relations: tuple[str, ...]
    frequency: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    def indices(self, kind: str) -> np.ndarray:
        """Rows of one kind, int64, ascending."""
        return np.flatnonzero(np.asarray(self.kind) == kind)
