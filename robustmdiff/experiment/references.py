"""Answers about the test patients that no trained model gives, to show beside those of the models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustmdiff.data.patient import DataError
from robustmdiff.evaluation.protocol import Reference
from robustmdiff.experiment.studies import Study

HALF_A_STEP = 0.005  # physicians answer in whole per cent


def references(study: Study) -> dict[str, Reference]:
    """By name, those that there are:

    ceiling      the exact posterior, of a cohort
    independence_assumed  the posterior of whoever takes findings for independent, of a cohort whose are not
    source_only  what the sites of the patients alone give away, where there are at least two
    physician    what physicians stated, where they did of each test patient (`estimated`)
    """
    posteriors = {"ceiling": study.posterior, "independence_assumed": study.independent}
    known: dict[str, Reference] = {name: posterior for name, posterior in posteriors.items() if posterior}
    return known | _source_only(study) | _physician(study)


def estimated(study: Study) -> Study:
    """The study with only those test patients whose physician stated an estimate (`Patient.estimate`).
    Raises DataError where there is none."""
    test = study.patients["test"]
    stated = [patient for patient in test if patient.estimate]
    if not stated:
        who = f"{study.source.data}: none of {len(test)} test patients"
        raise DataError(f"{who} has a physician's estimate, expected some")
    return replace(study, patients={**study.patients, "test": stated})


def _source_only(study: Study) -> dict[str, Reference]:
    from robustmdiff.baselines.source_only import SourceOnly

    train, test = ([replace(p, modalities={}) for p in study.patients[name]] for name in ("train", "test"))
    if len({p.site for p in train} - {None}) < 2:
        return {}
    probability = SourceOnly(study.task, train).probability(test)
    return {"source_only": lambda kept: probability}


def _physician(study: Study) -> dict[str, Reference]:
    """Physicians were asked once, and knew all that they knew: what is hidden from models changes nothing.
    Who says 0 or 1 means less than half a per cent from it, or one wrong answer would outweigh all others in
    the log loss."""
    estimates = [patient.estimate for patient in study.patients["test"]]
    if not all(estimates):
        return {}
    stated = np.array([[estimate[name] for name in study.task.classes] for estimate in estimates])
    meant = stated.clip(HALF_A_STEP, 1 - HALF_A_STEP)
    return {"physician": lambda kept: meant}
