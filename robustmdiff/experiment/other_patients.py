"""Patients from elsewhere: counted before training, and those on whom a trained run is measured."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.counts import Counts, Rows, counts
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources import SOURCES
from robustmdiff.data.sources.folder import folder_split
from robustmdiff.experiment.run import Run
from robustmdiff.experiment.source import Source, read_patients
from robustmdiff.experiment.studies import Study, in_terms_of
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical

SOME = 5  # ids that are named


class Found(NamedTuple):
    """What there is; and a row for each split that a folder's own column declares."""

    counts: Counts
    splits: Rows


def named_source(data: str | None, root: Path | None, skip_bad: bool = False) -> Source:
    """A folder of one's own (`data`), or the data of the format `data` under `root`."""
    formats = ", ".join(SOURCES)
    if root is not None:
        if data not in SOURCES:
            raise Refusal(f"--data is {data!r}, expected with --root the format there: one of {formats}")
        return Source(data, str(root.resolve()), skip_bad=skip_bad)
    if data is None:
        raise Refusal("no data are named, expected a folder, or --data and --root")
    if data in SOURCES and not Path(data).is_dir():
        raise Refusal(f"--data is {data!r}, expected with it --root, the folder of {data}")
    return Source("folder", str(Path(data).resolve()), skip_bad=skip_bad)


def found(source: Source, bad: BadRows) -> Found:
    """Everything read and counted; `bad` notes what cannot be read. Raises DataError as `load_study`."""
    patients, task = read_patients(source, bad)
    split = None
    if source.data == "folder" and source.root:
        split = folder_split(source.root, bad=BadRows(skip=True))
    rows = [{"split": name, "patients": len(ids)} for name, ids in (split or {}).items()]
    return Found(counts(patients, task), rows)


def unseen_study(run: Run, source: Source, bad: BadRows | None = None) -> Study:
    """The labelled patients of a source as the test patients of a run, in its terms. Whoever took part in its
    training or calibration (by id, or as the person of another record) is left out, and a warning says so.

    Raises DataError where they differ from what the run was trained on, and where nobody is left.
    """
    patients, task = read_patients(source, bad)
    where = str(source.root)
    labelled = [patient for patient in patients if patient.labels]
    labelled = list(in_terms_of(run.task, labelled, task, where))
    seen = run.people()
    known = [p for p in labelled if not seen.isdisjoint({canonical(p.id), p.person})]
    ids = {patient.id for patient in known}
    unseen = [patient for patient in labelled if patient.id not in ids]
    if not unseen:
        raise DataError(
            f"{where}: none of {len(labelled)} labelled patients is new to the run, "
            "expected some who took no part in its training"
        )
    if known:
        some = ", ".join(patient.id for patient in known[:SOME])
        warnings.warn(
            f"{where}: {len(known)} of {len(labelled)} labelled patients took part in the training of this "
            f"run and are left out: {some}{', ...' if len(known) > SOME else ''}",
            stacklevel=2,
        )
    return Study(source, run.task, {"train": [], "calibration": [], "test": unseen})
