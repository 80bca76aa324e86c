"""Diseases, findings, and how often they go together: the parameters of the built-in cohort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MODALITIES = ("xray", "ct", "mri", "text", "structured", "genomic")
SPECIFICITY = 0.95


class Disease(NamedTuple):
    id: str
    name: str
    percent: float  # of all patients
    imaging: tuple[str, ...] = ()  # of a rare disease: what it has beyond its mimic
    labs: tuple[str, ...] = ()
    genotype: str = ""
    mimic: str = ""  # rare diseases: the common disease whose profile they share


DISEASES = (
    Disease("RMD:D00", "no acute disease", 30),
    Disease("DOID:874", "bacterial pneumonia", 18,
            ("right lower lobe consolidation", "left lower lobe consolidation",
             "right upper lobe consolidation", "right pleural effusion"),
            ("fever", "leucocytosis", "raised procalcitonin"), "MBL2"),
    Disease("DOID:10533", "viral pneumonia", 13,
            ("ground-glass opacity", "tree-in-bud opacities", "bronchial wall thickening",
             "left lower lobe consolidation"),
            ("fever", "lymphopenia", "raised C-reactive protein"), "MBL2"),
    Disease("DOID:6000", "congestive heart failure", 10,
            ("cardiomegaly", "septal lines", "right pleural effusion", "left pleural effusion"),
            ("raised NT-proBNP", "raised creatinine", "hypoxaemia"), "F5"),
    Disease("DOID:3083", "chronic obstructive pulmonary disease", 8,
            ("hyperinflation", "apical bullae", "bronchial wall thickening", "pulmonary artery dilatation"),
            ("hypercapnia", "hypoxaemia", "leucocytosis"), "SERPINA1"),
    Disease("DOID:9477", "pulmonary embolism", 6,
            ("wedge-shaped infarct", "pulmonary artery dilatation", "left pleural effusion", "atelectasis"),
            ("raised D-dimer", "hypoxaemia", "raised NT-proBNP"), "F5"),
    Disease("DOID:2957", "pulmonary tuberculosis", 5,
            ("cavitary lesion", "right upper lobe consolidation", "tree-in-bud opacities",
             "mediastinal lymphadenopathy"),
            ("fever", "raised C-reactive protein", "lymphopenia"), "MBL2"),
    Disease("DOID:1324", "lung cancer", 4,
            ("lung mass", "mediastinal lymphadenopathy", "atelectasis", "left pleural effusion"),
            ("raised lactate dehydrogenase", "raised D-dimer", "raised C-reactive protein"), "SERPINA1"),
    Disease("DOID:0050156", "idiopathic pulmonary fibrosis", 3,
            ("honeycombing", "traction bronchiectasis", "ground-glass opacity",
             "mediastinal lymphadenopathy"),
            ("hypoxaemia", "raised lactate dehydrogenase", "hypercapnia"), "MUC5B"),
    Disease("DOID:12120", "pulmonary alveolar proteinosis", 1.5,
            ("crazy paving", "septal lines"), ("raised lactate dehydrogenase",), "CSF2RA",
            mimic="viral pneumonia"),
    Disease("DOID:3319", "lymphangioleiomyomatosis", 0.9,
            ("thin-walled cysts", "pneumothorax"), ("raised VEGF-D",), "TSC2",
            mimic="chronic obstructive pulmonary disease"),
    Disease("DOID:12132", "granulomatosis with polyangiitis", 0.6,
            ("pulmonary nodules", "lung mass"), ("raised creatinine",), "SERPINA1",
            mimic="pulmonary tuberculosis"),
)  # fmt: skip
RARE = 3  # the last three

IMAGING = (
    "right lower lobe consolidation", "left lower lobe consolidation", "right upper lobe consolidation",
    "ground-glass opacity", "right pleural effusion", "left pleural effusion", "cardiomegaly",
    "septal lines", "tree-in-bud opacities", "bronchial wall thickening", "hyperinflation",
    "apical bullae", "pulmonary artery dilatation", "wedge-shaped infarct", "atelectasis",
    "cavitary lesion", "lung mass", "mediastinal lymphadenopathy", "honeycombing",
    "traction bronchiectasis", "crazy paving", "thin-walled cysts", "pneumothorax", "pulmonary nodules",
)  # fmt: skip
LABS = (
    "fever", "hypoxaemia", "leucocytosis", "lymphopenia", "raised C-reactive protein",
    "raised procalcitonin", "raised NT-proBNP", "raised D-dimer", "hypercapnia",
    "raised lactate dehydrogenase", "raised VEGF-D", "raised creatinine",
)  # fmt: skip
GENES = ("MBL2", "F5", "SERPINA1", "MUC5B", "TSC2", "CSF2RA")
GENOTYPES = tuple(f"{gene} risk genotype" for gene in GENES)
FINDINGS = IMAGING + LABS + GENOTYPES

# Findings that the Human Phenotype Ontology knows under the same meaning.
HPO = {
    "cardiomegaly": "HP:0001640", "pulmonary artery dilatation": "HP:0004927",
    "atelectasis": "HP:0100750", "mediastinal lymphadenopathy": "HP:0100721",
    "pneumothorax": "HP:0002107", "fever": "HP:0001945", "hypoxaemia": "HP:0012418",
    "leucocytosis": "HP:0001974", "lymphopenia": "HP:0001888",
    "raised C-reactive protein": "HP:0011227", "hypercapnia": "HP:0012416",
    "raised creatinine": "HP:0003259",
}  # fmt: skip
FINDING_IDS = tuple(HPO.get(name, f"RMD:F{f:02d}") for f, name in enumerate(FINDINGS))


@dataclass(frozen=True)
class DiseaseTable:
    """P(finding | disease) and what each modality sees of it.

    prevalence   float64 [C], sums to 1.
    frequency    float64 [C, F], P(finding | disease); row 0 is the background.
    sensitivity  float64 [M, F], P(reading positive | finding), NaN where the modality does not
                 show the finding. The specificity is .95 everywhere.
    """

    prevalence: np.ndarray
    frequency: np.ndarray
    sensitivity: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """bool [M, F]: the findings of which a modality gives a reading."""
        return ~np.isnan(self.sensitivity)


def disease_table(seed: int = 0) -> DiseaseTable:
    """The table of one seed. Seed 0 keeps the profiles written above; any other seed draws which
    findings make up each disease. Frequencies, sensitivities and visibility are drawn by all."""
    rng = np.random.default_rng([seed, 0x7AB1E])
    C, F, images, labs = len(DISEASES), len(FINDINGS), len(IMAGING), len(LABS)
    frequency = rng.uniform(0.04, 0.10, (C, F))
    profiles: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    common = [d.name for d in DISEASES[1:-RARE]]
    mimics = rng.choice(common, RARE, replace=False)
    for c, disease in enumerate(DISEASES[1:], start=1):
        rare = c >= C - RARE
        row = frequency[c]
        imaging, lab, genotype = _positions(disease)
        mimic = profiles[disease.mimic if seed == 0 else mimics[c - C + RARE]] if rare else None
        if seed != 0:
            known = (mimic[0], mimic[1]) if mimic else (np.array([], int), np.array([], int))
            imaging = rng.choice(np.setdiff1d(np.arange(images), known[0]), len(imaging), replace=False)
            lab = rng.choice(
                np.setdiff1d(np.arange(images, images + labs), known[1]), len(lab), replace=False
            )
            genotype = int(rng.integers(images + labs, F))
        if mimic:
            donor = frequency[common.index(disease.mimic if seed == 0 else mimics[c - C + RARE]) + 1]
            shared = np.concatenate([mimic[0], mimic[1], [mimic[2]]])
            strongest = mimic[0][donor[mimic[0]].argmax()]
            background = row[strongest]
            row[shared] = donor[shared]
            row[strongest] = background
        row[imaging] = rng.uniform(0.50, 0.85, len(imaging))
        row[lab] = rng.uniform(0.50, 0.85, len(lab))
        row[genotype] = rng.uniform(0.5, 0.7) if rare else rng.uniform(0.15, 0.35)
        profiles[disease.name] = (imaging, lab, genotype)
    prevalence = np.array([d.percent for d in DISEASES], dtype=np.float64)
    return DiseaseTable(prevalence / prevalence.sum(), frequency, _sensitivity(rng))


def _positions(disease: Disease) -> tuple[np.ndarray, np.ndarray, int]:
    return (
        np.array([FINDINGS.index(name) for name in disease.imaging]),
        np.array([FINDINGS.index(name) for name in disease.labs]),
        FINDINGS.index(f"{disease.genotype} risk genotype"),
    )


def _sensitivity(rng: np.random.Generator) -> np.ndarray:
    images, labs = len(IMAGING), len(LABS)
    blocks = {"imaging": (0, images), "lab": (images, images + labs), "gene": (images + labs, len(FINDINGS))}
    shown = (  # modality, findings, share visible, sensitivity from, to
        ("xray", "imaging", 0.75, 0.60, 0.85),
        ("ct", "imaging", 0.90, 0.85, 0.97),
        ("mri", "imaging", 0.85, 0.85, 0.97),
        ("text", "imaging", 0.60, 0.75, 0.95),
        ("text", "lab", 0.60, 0.75, 0.95),
        ("text", "gene", 0.70, 0.75, 0.95),
        ("structured", "lab", 1.00, 0.85, 0.97),
        ("structured", "imaging", 0.45, 0.40, 0.60),
        ("genomic", "gene", 1.00, 0.97, 0.99),
    )
    sensitivity = np.full((len(MODALITIES), len(FINDINGS)), np.nan)
    for modality, block, share, low, high in shown:
        start, stop = blocks[block]
        visible = start + rng.permutation(stop - start)[: round(share * (stop - start))]
        sensitivity[MODALITIES.index(modality), visible] = rng.uniform(low, high, len(visible))
    return sensitivity
