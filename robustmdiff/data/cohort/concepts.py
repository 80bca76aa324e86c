"""The disease table as an ontology would know it: in frequency bands, some of them wrong."""

from __future__ import annotations

import numpy as np

from robustmdiff.data.cohort.table import DISEASES, FINDING_IDS, FINDINGS, DiseaseTable
from robustmdiff.knowledge.concepts import ConceptTable
from robustmdiff.knowledge.sparse import SparseTable

# Bands of the Human Phenotype Ontology: name, lowest frequency, value used for the band.
BANDS = (
    ("Excluded", 0.0, 0.0),
    ("Very rare", 0.005, 0.025),
    ("Occasional", 0.05, 0.17),
    ("Frequent", 0.30, 0.545),
    ("Very frequent", 0.80, 0.895),
    ("Obligate", 0.995, 1.0),
)
STATED = 0.05  # edges say that a disease has a phenotype from this frequency on ("Occasional")


def frequency_bands(frequency: np.ndarray, wrong: float = 0.15, seed: int = 0) -> np.ndarray:
    """P(finding | disease) [C, F] rounded to the middle of its band, float32 [C, F]; a share
    `wrong` of the entries, drawn by `seed`, stands in another band. Wrong bands are never
    "Excluded" or "Obligate": an ontology errs in degree, and certainty admits no evidence."""
    if not 0 <= wrong <= 1:
        raise ValueError(f"wrong is {wrong}, expected a share in [0, 1]")
    lowest = np.array([low for _, low, _ in BANDS])
    value = np.array([middle for _, _, middle in BANDS], dtype=np.float32)
    band = np.searchsorted(lowest, frequency, side="right") - 1
    rng = np.random.default_rng([seed, *b"bands"])
    graded = np.arange(1, len(BANDS) - 1)
    moved = rng.choice(band.size, round(wrong * band.size), replace=False)
    flat = band.ravel()
    for entry in moved:
        flat[entry] = rng.choice(graded[graded != flat[entry]])
    return value[flat.reshape(band.shape)]


def concept_table(table: DiseaseTable, bands: np.ndarray) -> ConceptTable:
    """12 diseases, then 42 findings. Edges join a disease with the findings that its band calls
    at least occasional, both ways; "no acute disease" has none."""
    C = len(DISEASES)
    disease, finding = np.nonzero(bands[1:] > np.float32(STATED))
    disease, finding = disease + 1, finding + C
    return ConceptTable(
        id=tuple(d.id for d in DISEASES) + FINDING_IDS,
        name=tuple(d.name for d in DISEASES) + FINDINGS,
        definition=("",) * (C + len(FINDINGS)),
        kind=("disease",) * C + ("finding",) * len(FINDINGS),
        prevalence=np.concatenate([table.prevalence, np.full(len(FINDINGS), np.nan)]).astype(np.float32),
        source=np.concatenate([disease, finding]),
        target=np.concatenate([finding, disease]),
        relation=np.repeat(np.array([0, 1]), len(disease)),
        relations=("has_phenotype", "phenotype_of"),
        frequency=SparseTable.from_dense(bands),
    )
