"""Where patients come from, and who trains, calibrates and is tested."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from robustmdiff.data.modality import Task
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.splits import split_patients
from robustmdiff.knowledge.concepts import ConceptTable

SPLITS = ("train", "calibration", "test")
FRACTIONS = {"train": 0.6, "calibration": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Source:
    """How to get the patients of a study, now and again later.

    data     "cohort" (built in), "chestxray", "covid" (the fair question within chestxray),
             "hannover", or "folder" (a folder of one's own).
    root     the folder of the data; not for the cohort.
    ontology what the concepts come from (see `knowledge.load_concepts`); the cohort has its own.
    options  cohort: train, calibration, test (numbers of patients), seed, table_seed,
             rare_per_class (of the test cohort), missingness, rate; otherwise image_size, seed
             (of the split), and level for chestxray.
    """

    data: str
    root: str | None = None
    ontology: str = "icd10cm"
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Study:
    """Patients by split, the task, what is known beforehand.

    weight     float64 [test patients], importance weights where the test enriches rare classes.
    posterior  the exact posterior of the test patients: kept bool [n, M] -> [n, C]; the ceiling.
    """

    source: Source
    task: Task
    concepts: ConceptTable
    patients: Mapping[str, Sequence[Patient]]
    weight: np.ndarray | None = None
    posterior: Callable[[np.ndarray], Any] | None = None

    def find(self, id: str) -> Patient:
        for split in SPLITS:
            for patient in self.patients[split]:
                if patient.id == id:
                    return patient
        some = ", ".join(patient.id for patient in list(self.patients["test"])[:3])
        raise DataError(f"no patient {id!r} in this study; test patients are {some}, ...")


def load_study(source: Source) -> Study:
    """Raises DataError for a source that is not there or not what its format promises."""
    if source.data not in LOADERS:
        raise DataError(f"data is {source.data!r}, expected one of {', '.join(LOADERS)}")
    if (source.root is None) != (source.data == "cohort"):
        expected = "none: the cohort is built in" if source.root else f"the folder of {source.data}"
        raise DataError(f"root is {source.root!r}, expected {expected}")
    return LOADERS[source.data](source)


def _cohort(source: Source) -> Study:
    """Three independent cohorts that share the disease table."""
    from robustmdiff.data.cohort import CohortConfig, make_cohort

    options = dict(source.options)
    sizes = {name: int(options.pop(name, n)) for name, n in zip(SPLITS, (1000, 200, 300), strict=True)}
    seed, rare = int(options.pop("seed", 0)), options.pop("rare_per_class", None)
    # A patient is decided by the seed and its place, so the three need seeds of their own.
    cohorts = {
        name: make_cohort(
            CohortConfig(
                patients=sizes[name],
                seed=3 * seed + i,
                rare_per_class=rare if name == "test" else None,
                **options,
            )
        )
        for i, name in enumerate(SPLITS)
    }
    test = cohorts["test"]
    return Study(
        source=source,
        task=test.task,
        concepts=test.concepts(),
        patients={name: cohort.patients for name, cohort in cohorts.items()},
        weight=np.asarray(test.weights) if rare else None,
        posterior=test.posterior,
    )


def _loaded(module: str, function: str) -> Callable[[Source], Study]:
    """The study of a loader that returns (patients, task)."""

    def load(source: Source) -> Study:
        options = dict(source.options)
        seed = options.pop("seed", 0)
        loader = getattr(importlib.import_module(f"robustmdiff.data.{module}"), function)
        patients, task = loader(source.root, **options)
        return _split(source, patients, task, seed)

    return load


def _split(source: Source, patients: Sequence[Patient], task: Task, seed: int) -> Study:
    from robustmdiff.knowledge import concepts_of_task, load_concepts

    labelled = [patient for patient in patients if patient.labels]
    if len(labelled) < len(SPLITS):
        raise DataError(
            f"{source.root}: has {len(labelled)} labelled patients, expected at least {len(SPLITS)}"
        )
    label = [next((name for name, holds in p.labels.items() if holds), "") for p in labelled]
    split = split_patients(labelled, FRACTIONS, seed, stratify=label)
    of = {patient.id: patient for patient in labelled}
    task = replace(task, prevalence=prevalence([of[id] for id in split["train"]], task))
    return Study(
        source=source,
        task=task,
        concepts=concepts_of_task(load_concepts(source.ontology), task.classes, task.findings),
        patients={name: [of[id] for id in split[name]] for name in SPLITS},
    )


def prevalence(patients: Sequence[Patient], task: Task) -> tuple[float, ...]:
    """Of each class among the patients of whom it is known, one added to each count so that a class
    that nobody has keeps a chance."""
    known = [sum(name in p.labels for p in patients) for name in task.classes]
    if not task.multilabel:
        known = [len(patients) + len(task.classes) - 1] * len(task.classes)
    holds = [sum(bool(p.labels.get(name)) for p in patients) for name in task.classes]
    return tuple(
        (h + 1) / (k + 1) if not task.multilabel else (h + 1) / (k + 2)
        for h, k in zip(holds, known, strict=True)
    )


def text_of(patients: Sequence[Patient], task: Task) -> list[str]:
    """All texts of these patients, to train a tokenizer on."""
    names = [m.name for m in task.modalities if m.kind == "text"]
    texts = (patient.modalities.get(name) for patient in patients for name in names)
    return [text for text in texts if isinstance(text, str)]


LOADERS: dict[str, Callable[[Source], Study]] = {
    "cohort": _cohort,
    "chestxray": _loaded("chestxray", "load_chestxray"),
    "covid": _loaded("chestxray", "covid_task"),
    "hannover": _loaded("hannover", "load_hannover"),
    "folder": _loaded("folder", "load_folder"),
}
