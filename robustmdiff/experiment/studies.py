"""Who of the patients of a source trains, calibrates and is tested."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.sources.folder import folder_split, states_prevalence
from robustmdiff.data.splits import Split, labels_of, load_split, split_patients
from robustmdiff.data.study import prevalence
from robustmdiff.data.task import Task
from robustmdiff.data.terms import terms
from robustmdiff.experiment.source import SIZES, Source, check_source, read_patients, with_encoders
from robustmdiff.knowledge import ConceptTable, concepts_of_task, load_concepts
from robustmdiff.spelling import canonical

if TYPE_CHECKING:
    from robustmdiff.data.cohort import Cohort

SPLITS = ("train", "calibration", "test")
FRACTIONS = {"train": 0.6, "calibration": 0.2, "test": 0.2}
RARE = 0.05  # prevalence


@dataclass(frozen=True)
class Study:
    """Patients by split, the task, what is known beforehand.

    weight     float64 [test patients], importance weights where the test enriches rare classes.
    calibration_weight  the same of the calibration patients. What is calibrated given the class needs none.
    posterior  the exact posterior of the test patients: kept bool [n, M] -> [n, C]; the ceiling.
    independent  the same for whoever takes findings for independent given the class, where they are not: what
               a disease table can reach.
    mnar       how the test patients lose modalities not at random, where that is known: rate and seed ->
               kept bool [n, M].
    table      concepts that a model shall know instead of the source's own, for an experiment.
    """

    source: Source
    task: Task
    patients: Mapping[str, Sequence[Patient]]
    weight: np.ndarray | None = None
    calibration_weight: np.ndarray | None = None
    posterior: Callable[[np.ndarray], Any] | None = None
    independent: Callable[[np.ndarray], Any] | None = None
    mnar: Callable[[float, int], np.ndarray] | None = None
    table: ConceptTable | None = None

    @cached_property
    def concepts(self) -> ConceptTable:
        """What a model may know beforehand: the cohort's own table, else the task's concepts in the ontology.
        Read when it is asked for: whoever only diagnoses need not wait for it."""
        if self.table is not None:
            return self.table
        if self.source.data == "cohort":
            return _cohort_concepts(self.source)
        ontology = _ontology(self.source.ontology)
        return concepts_of_task(ontology, self.task.classes, self.task.findings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a result has to know of its patients."""
        if self.source.data != "cohort":
            return ()
        from robustmdiff.data.cohort.config import DEVELOPED_ON

        options = {"seed": 0, "table_seed": 0} | dict(self.source.options)
        drawn = ", ".join(f"{name}={value}" for name, value in options.items())
        notes = [f"Patients of the built-in cohort: {drawn}."]
        if options["table_seed"] in DEVELOPED_ON:
            notes.append("The model was developed on this disease table: on another it may do less well.")
        return tuple(notes)

    def find(self, id: str) -> Patient:
        for split in SPLITS:
            for patient in self.patients[split]:
                if canonical(patient.id) == canonical(id):
                    return patient
        some = ", ".join(patient.id for patient in list(self.patients["test"])[:3])
        raise DataError(f"no patient {id!r} in this study; test patients are {some}, ...")


def load_study(source: Source, split: str | Path | None = None, *, bad: BadRows | None = None) -> Study:
    """The study of a source, split as in the file `split` (of `data.splits.save_split`), or else by the sites
    among the source's options, or else as a folder's column `split` says, or else by the seed among the
    options. The cohort's split is part of the cohort, whatever is given. `bad` notes the rows that cannot
    be read.

    Raises DataError for a source that is not there or not what its format promises.
    """
    check_source(source)
    if source.data == "cohort":
        return _cohort(source)
    patients, task = load_patients(source, bad=bad)
    if split is not None:
        return study_of(source, patients, task, load_split(split, patients))
    drawn = _by_site(source, patients) or _declared(source, patients) or _drawn(source, patients, FRACTIONS)
    return study_of(source, patients, task, drawn)


def _drawn(source: Source, patients: Sequence[Patient], fractions: Mapping[str, float]) -> Split:
    return split_patients(patients, fractions, source.options.get("seed", 0), stratify=labels_of(patients))


def _by_site(source: Source, patients: Sequence[Patient]) -> Split | None:
    """Tested are the patients of the sites among the options; None where none are named. Of a person who was
    at such a site, what another site recorded is left out."""
    if "test_sites" not in source.options:
        return None
    named = {canonical(name) for name in source.options["test_sites"].split(",")}
    there = {canonical(patient.site) for patient in patients if patient.site}
    if unknown := sorted(named - there):
        sites = ", ".join(sorted(there)) or "none"
        raise DataError(f"option test_sites has {unknown[0]!r}, expected sites of labelled patients: {sites}")
    test = [patient for patient in patients if patient.site and canonical(patient.site) in named]
    tested = {patient.person for patient in test}
    return _with_calibration(
        source,
        [patient for patient in patients if patient.person not in tested],
        {"test": tuple(patient.id for patient in test)},
    )


def _declared(source: Source, patients: Sequence[Patient]) -> Split | None:
    """The split that a folder's own column declares; calibration comes out of train where none is."""
    split = None
    if source.data == "folder" and source.root:
        split = folder_split(source.root, bad=BadRows(source.skip_bad))
    if split is None:
        return None
    if not {"train", "test"} <= set(split) <= set(SPLITS):
        raise DataError(
            f"{source.root}: column 'split' has {', '.join(sorted(split))}, "
            "expected train and test, and calibration if you have one"
        )
    by_id = {patient.id: patient for patient in patients}
    split = {name: tuple(id for id in ids if id in by_id) for name, ids in split.items()}
    if "calibration" in split:
        return split
    return _with_calibration(source, [by_id[id] for id in split["train"]], split)


def _with_calibration(source: Source, training: Sequence[Patient], split: Split) -> Split:
    """The split, of whose training patients some are taken to calibrate."""
    part = FRACTIONS["calibration"] / (FRACTIONS["train"] + FRACTIONS["calibration"])
    return split | _drawn(source, training, {"train": 1 - part, "calibration": part})


def cohorts_of(source: Source) -> dict[str, Cohort]:
    """The three independent cohorts, by split, of a source that is the built-in one; they share the disease
    table."""
    from robustmdiff.data.cohort import CohortConfig, make_cohort

    options = dict(source.options)
    sizes = {name: options.pop(name, n) for name, n in SIZES.items()}
    seed = options.pop("seed", 0)
    rare = {
        "calibration": options.pop("calibration_rare_per_class", None),
        "test": options.pop("rare_per_class", None),
    }
    # A patient is decided by the seed and its place, so the three need seeds of their own.
    return {
        name: make_cohort(
            CohortConfig(patients=sizes[name], seed=3 * seed + i, rare_per_class=rare.get(name), **options)
        )
        for i, name in enumerate(SPLITS)
    }


def _cohort(source: Source) -> Study:
    cohorts = cohorts_of(source)
    enriched = {name: cohort for name, cohort in cohorts.items() if cohort.config.rare_per_class}
    weight = {name: cohort.weights for name, cohort in enriched.items()}
    test = cohorts["test"]
    exact = test.config.exact
    return Study(
        source=source,
        task=with_encoders(test.task, source.encoders),
        patients={name: cohort.patients for name, cohort in cohorts.items()},
        weight=weight.get("test"),
        calibration_weight=weight.get("calibration"),
        posterior=test.posterior if exact else None,
        independent=partial(test.posterior, correlation=0.0) if exact and test.config.correlation else None,
        mnar=partial(test.mask, "mnar"),
    )


def _cohort_concepts(source: Source) -> ConceptTable:
    """They depend on the disease table alone, so one patient will do."""
    from robustmdiff.data.cohort import CohortConfig, make_cohort

    table = {name: value for name, value in source.options.items() if name == "table_seed"}
    return make_cohort(CohortConfig(patients=1, **table)).concepts()


def load_patients(source: Source, *, bad: BadRows | None = None) -> tuple[list[Patient], Task]:
    """The labelled ones of `read_patients`, at least as many as there are splits."""
    patients, task = read_patients(source, bad)
    labelled = [patient for patient in patients if patient.labels]
    if len(labelled) < len(SPLITS):
        raise DataError(
            f"{source.root}: has {len(labelled)} labelled patients, expected at least {len(SPLITS)}"
        )
    return labelled, task


def study_of(
    source: Source, patients: Sequence[Patient], task: Task, split: Mapping[str, Sequence[str]]
) -> Study:
    """These patients, split by id; prevalence is that of the training patients, unless their folder states
    that of the population. Where the task names no rare class, those under RARE are."""
    by_id = {patient.id: patient for patient in patients}
    if not (source.data == "folder" and source.root and states_prevalence(source.root)):
        training = [by_id[id] for id in split["train"]]
        task = replace(task, prevalence=prevalence(training, task.classes, task.labels))
    if not task.rare:
        rare = (name for name, share in zip(task.classes, task.prevalence, strict=True) if share < RARE)
        task = replace(task, rare=tuple(rare))
    return Study(
        source=source,
        task=task,
        patients={name: [by_id[id] for id in split[name]] for name in SPLITS},
    )


def in_terms_of(ours: Task, patients: Iterable[Patient], theirs: Task, where: str) -> Iterator[Patient]:
    """Patients of the task `theirs` as patients of `ours` (`data.terms`): refused at once, or converted one
    by one."""
    read = terms(ours, theirs, where)
    if read.absent:
        warnings.warn(
            f"{where}: has no {', '.join(read.absent)}, which the run takes as not measured", stacklevel=2
        )
    return map(read.patient, patients)


def study_in_terms_of(task: Task, study: Study) -> Study:
    """A study whose patients are of `task`: of a run whose task.json may have changed since."""
    where = study.source.root or study.source.data
    order = [(t.modality_names, t.classes, t.findings) for t in (task, study.task)]
    read = terms(task, study.task, where)
    if read.same and not read.absent and order[0] == order[1]:
        return replace(study, task=task)
    return replace(
        study,
        task=task,
        patients={
            name: list(in_terms_of(task, patients, study.task, where))
            for name, patients in study.patients.items()
        },
    )


@lru_cache(maxsize=1)
def _ontology(ontology: str) -> ConceptTable:
    """Read once a process: ICD-10-CM takes seconds."""
    return load_concepts(ontology)
