"""The written report: a small grammar over the readings of the text modality.

A positive reading is always mentioned, now and then with doubt ("possible", "suspected"). A
negative one is sometimes negated ("no ...") and otherwise left out, so silence means negative."""

from __future__ import annotations

import numpy as np

from robustmdiff.data.cohort.table import FINDINGS, IMAGING, LABS

SYNONYMS: dict[str, tuple[str, ...]] = {
    "right lower lobe consolidation": (
        "right lower lobe consolidation",
        "basal infiltrate on the right",
    ),
    "left lower lobe consolidation": ("left lower lobe consolidation", "basal infiltrate on the left"),
    "right upper lobe consolidation": ("right upper lobe consolidation", "right apical infiltrate"),
    "ground-glass opacity": ("ground-glass opacity", "hazy peripheral opacities"),
    "right pleural effusion": ("right pleural effusion", "right-sided pleural fluid"),
    "left pleural effusion": ("left pleural effusion", "left-sided pleural fluid"),
    "cardiomegaly": ("cardiomegaly", "enlarged heart"),
    "septal lines": ("septal lines", "Kerley B lines"),
    "tree-in-bud opacities": ("tree-in-bud opacities", "centrilobular micronodules"),
    "bronchial wall thickening": ("bronchial wall thickening", "peribronchial cuffing"),
    "hyperinflation": ("hyperinflation", "flattened diaphragms"),
    "apical bullae": ("apical bullae", "bullous change of the apices"),
    "pulmonary artery dilatation": ("pulmonary artery dilatation", "wide main pulmonary artery"),
    "wedge-shaped infarct": ("wedge-shaped infarct", "Hampton hump"),
    "atelectasis": ("atelectasis", "band of volume loss"),
    "cavitary lesion": ("cavitary lesion", "thick-walled cavity"),
    "lung mass": ("lung mass", "spiculated tumour"),
    "mediastinal lymphadenopathy": ("mediastinal lymphadenopathy", "enlarged mediastinal nodes"),
    "honeycombing": ("honeycombing", "subpleural honeycomb cysts"),
    "traction bronchiectasis": ("traction bronchiectasis", "distorted dilated bronchi"),
    "crazy paving": ("crazy paving", "crazy-paving pattern"),
    "thin-walled cysts": ("thin-walled cysts", "diffuse round cysts"),
    "pneumothorax": ("pneumothorax", "pleural air on the right"),
    "pulmonary nodules": ("pulmonary nodules", "scattered round nodules"),
    "fever": ("fever", "febrile"),
    "hypoxaemia": ("hypoxaemia", "low oxygen saturation"),
    "leucocytosis": ("leucocytosis", "high white count"),
    "lymphopenia": ("lymphopenia", "low lymphocytes"),
    "raised C-reactive protein": ("raised CRP", "high C-reactive protein"),
    "raised procalcitonin": ("raised procalcitonin", "PCT elevated"),
    "raised NT-proBNP": ("raised NT-proBNP", "natriuretic peptide elevated"),
    "raised D-dimer": ("raised D-dimer", "fibrin dimers elevated"),
    "hypercapnia": ("hypercapnia", "CO2 retention"),
    "raised lactate dehydrogenase": ("raised LDH", "lactate dehydrogenase elevated"),
    "raised VEGF-D": ("raised VEGF-D", "serum VEGF-D elevated"),
    "raised creatinine": ("raised creatinine", "impaired renal function"),
    "MBL2 risk genotype": ("MBL2 variant", "mannose-binding lectin deficiency"),
    "F5 risk genotype": ("F5 variant", "factor V Leiden"),
    "SERPINA1 risk genotype": ("SERPINA1 variant", "alpha-1 antitrypsin Z allele"),
    "MUC5B risk genotype": ("MUC5B variant", "mucin promoter polymorphism"),
    "TSC2 risk genotype": ("TSC2 variant", "tuberin mutation"),
    "CSF2RA risk genotype": ("CSF2RA variant", "GM-CSF receptor defect"),
}
_SECTIONS = (  # heading, when there is nothing, first finding, one past the last
    ("Imaging:", "lungs clear", 0, len(IMAGING)),
    ("Clinical:", "unremarkable", len(IMAGING), len(IMAGING) + len(LABS)),
    ("Genetics:", "wild type", len(IMAGING) + len(LABS), len(FINDINGS)),
)
_DOUBT = ("possible", "suspected", "probable")
DOUBTED, NEGATED, MISTYPED = 0.15, 0.15, 0.01  # shares of positives, negatives, words
MOST_NEGATED = 4  # a report of many positives negates fewer


def write(readings: np.ndarray, degraded: bool, rng: np.random.Generator) -> str:
    """The report of one patient; readings int8 [F] of the text modality. Degraded reports lose
    their last quarter, and one word in ten is mistyped."""
    may_negate = max(0, MOST_NEGATED - int((readings == 1).sum()) // 3)
    sentences = []
    for heading, nothing, start, stop in _SECTIONS:
        here = start + rng.permutation(stop - start)
        positive = [_mention(f, rng) for f in here if readings[f] == 1]
        negated = [f for f in here if readings[f] == 0 and rng.random() < NEGATED][:may_negate]
        may_negate -= len(negated)
        negative = [f"no {_synonym(f, rng)}" for f in negated]
        sentences.append(f"{heading} {', '.join((positive or [nothing]) + negative)}.")
    words = " ".join(sentences).split()
    if degraded:
        words = words[: max(1, len(words) * 3 // 4)]
    share = 0.1 if degraded else MISTYPED
    return " ".join(_mistype(word, rng) if rng.random() < share else word for word in words)


def _synonym(f: int, rng: np.random.Generator) -> str:
    choices = SYNONYMS[FINDINGS[f]]
    return choices[rng.integers(len(choices))]


def _mention(f: int, rng: np.random.Generator) -> str:
    doubt = f"{_DOUBT[rng.integers(len(_DOUBT))]} " if rng.random() < DOUBTED else ""
    return doubt + _synonym(f, rng)


def _mistype(word: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters change places, in words long enough to stay readable."""
    if len(word) < 6:
        return word
    k = int(rng.integers(1, len(word) - 2))
    return word[:k] + word[k + 1] + word[k] + word[k + 2 :]
