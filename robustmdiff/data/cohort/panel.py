"""Values: laboratory and vital signs, bedside proxies of imaging findings, demographics, genes."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from robustmdiff.data.cohort.table import FINDINGS, GENOTYPES, IMAGING, LABS
from robustmdiff.data.modality import Field


class Lab(NamedTuple):
    """A positive reading lies beyond `limit`, a negative one inside. In units u (negative
    readings about -1, positive about +1, sd .4) the value is limit + u * step, the step of the
    side it lies on; steps of low-is-abnormal values are negative."""

    field: Field
    limit: float
    inside: float
    beyond: float
    decimals: int
    range: tuple[float, float]  # what a device can show


LAB_VALUES: dict[str, Lab] = {
    "fever": Lab(Field("temperature", "°C", (36.0, 37.8)), 37.8, 0.6, 1.0, 1, (33, 43)),
    "hypoxaemia": Lab(Field("oxygen saturation", "%", (94, 100)), 94, -2.6, -6, 0, (50, 100)),
    "leucocytosis": Lab(Field("white cells", "10^9/L", (4, 11)), 11, 3.2, 5, 1, (0.5, 80)),
    "lymphopenia": Lab(Field("lymphocytes", "10^9/L", (1.0, 4.0)), 1.0, -0.9, -0.45, 2, (0.05, 20)),
    "raised C-reactive protein": Lab(
        Field("C-reactive protein", "mg/L", (0, 10)), 10, 5.5, 80, 1, (0.2, 500)
    ),
    "raised procalcitonin": Lab(Field("procalcitonin", "µg/L", (0, 0.25)), 0.25, 0.13, 3, 2, (0.02, 100)),
    "raised NT-proBNP": Lab(Field("NT-proBNP", "ng/L", (0, 300)), 300, 160, 2200, 0, (10, 35000)),
    "raised D-dimer": Lab(Field("D-dimer", "mg/L FEU", (0, 0.5)), 0.5, 0.22, 2.2, 2, (0.05, 20)),
    "hypercapnia": Lab(Field("arterial CO2 pressure", "kPa", (4.7, 6.0)), 6.0, 0.6, 1.6, 2, (2.5, 16)),
    "raised lactate dehydrogenase": Lab(
        Field("lactate dehydrogenase", "U/L", (125, 250)), 250, 55, 180, 0, (60, 3000)
    ),
    "raised VEGF-D": Lab(Field("VEGF-D", "ng/L", (0, 800)), 800, 350, 700, 0, (50, 6000)),
    "raised creatinine": Lab(Field("creatinine", "µmol/L", (45, 105)), 105, 26, 90, 0, (20, 1200)),
}
assert tuple(LAB_VALUES) == LABS
# Weak proxies of imaging findings: what is heard, felt or asked at the bedside, scored 0 to 10.
PROXIES: dict[str, str] = {
    "right lower lobe consolidation": "bronchial breathing at right base",
    "left lower lobe consolidation": "bronchial breathing at left base",
    "right upper lobe consolidation": "bronchial breathing at right apex",
    "ground-glass opacity": "desaturation on exertion",
    "right pleural effusion": "percussion dullness at right base",
    "left pleural effusion": "percussion dullness at left base",
    "cardiomegaly": "displaced apex beat",
    "septal lines": "orthopnoea",
    "tree-in-bud opacities": "productive cough",
    "bronchial wall thickening": "wheeze",
    "hyperinflation": "barrel chest",
    "apical bullae": "faint breath sounds at apices",
    "pulmonary artery dilatation": "loud pulmonary second sound",
    "wedge-shaped infarct": "pleuritic pain",
    "atelectasis": "reduced chest expansion",
    "cavitary lesion": "night sweats",
    "lung mass": "weight loss",
    "mediastinal lymphadenopathy": "palpable neck nodes",
    "honeycombing": "velcro crackles",
    "traction bronchiectasis": "finger clubbing",
    "crazy paving": "gelatinous sputum",
    "thin-walled cysts": "exertional dyspnoea",
    "pneumothorax": "hyperresonance on the right",
    "pulmonary nodules": "haemoptysis",
}
_PROXY = (4.0, 2.0, 2.0, 1, (0.0, 10.0))
LOCI = (
    "MBL2 rs1800450", "F5 rs6025", "SERPINA1 rs28929474", "MUC5B rs35705950", "TSC2 truncating variant",
    "CSF2RA loss-of-function variant",
)  # fmt: skip
GENOTYPE_CALLS = ("wild type", "heterozygous", "homozygous")
SPREAD, SPREAD_DEGRADED = 0.4, 1.0
MISCALLED = 0.1  # of degraded genotypes
HOMOZYGOUS = 0.15  # of positive genotypes


@cache  # a patient asks for dozens each time it is made
def lab_of(finding: int) -> Lab:
    """The value that carries a finding's reading in the structured modality."""
    name = FINDINGS[finding]
    if name in LAB_VALUES:
        return LAB_VALUES[name]
    return Lab(Field(PROXIES[name], "score", (0.0, 4.0)), *_PROXY)


def structured_fields(visible: np.ndarray) -> tuple[Field, ...]:
    """Demographics, then one value per visible finding (bool [F])."""
    who = (Field("age", "years"), Field("sex", categories=("female", "male")))
    return who + tuple(lab_of(int(f)).field for f in np.flatnonzero(visible))


def genomic_fields() -> tuple[Field, ...]:
    return tuple(Field(locus, categories=GENOTYPE_CALLS) for locus in LOCI)


def measure(readings: np.ndarray, degraded: bool, rng: np.random.Generator) -> dict[int, float]:
    """Finding to value, for the readings int8 [F] of the structured modality that are not -1."""
    noise = rng.standard_normal(len(readings))
    values = {}
    for f in np.flatnonzero(readings >= 0):
        lab = lab_of(int(f))
        u = (1 if readings[f] else -1) + (SPREAD_DEGRADED if degraded else SPREAD) * noise[f]
        value = lab.limit + u * (lab.beyond if u > 0 else lab.inside)
        values[int(f)] = round(float(np.clip(value, *lab.range)), lab.decimals)
    return values


def genotype(readings: np.ndarray, degraded: bool, rng: np.random.Generator) -> dict[int, str]:
    """Finding to genotype call, for the readings int8 [F] of the genomic modality."""
    u = rng.random((2, len(readings)))
    first = len(IMAGING) + len(LABS)
    calls = {}
    for f in range(first, first + len(GENOTYPES)):
        positive = readings[f] == 1
        if degraded and u[0, f] < MISCALLED:
            positive = not positive
        carrier = GENOTYPE_CALLS[2 if u[1, f] < HOMOZYGOUS else 1]
        calls[f] = carrier if positive else GENOTYPE_CALLS[0]
    return calls


def field_name(modality: str, finding: int) -> str:
    """The field in which a modality of values holds a finding."""
    if modality == "genomic":
        return LOCI[finding - len(IMAGING) - len(LABS)]
    return lab_of(finding).field.name
