"""Where patients come from: a format, a folder, options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.sources import SOURCES
from robustmdiff.data.study import readable
from robustmdiff.data.task import Task

SIZES = {"train": 1000, "calibration": 200, "test": 300}  # of the cohort, unless options say otherwise
KIND_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
OF_THE_SPLIT = {"seed": 0, "test_sites": "north,south"}  # options of every source but the cohort, as examples


@dataclass(frozen=True)
class Source:
    """How to get the patients of a study, now and again later.

    data     "cohort" (built in), or the name of a format in `data.sources`: "folder" is one's own.
    root     the folder of the data; not for the cohort.
    ontology what the concepts come from (see `knowledge.load_concepts`); the cohort has its own.
    options  cohort: train, calibration, test (numbers of patients), seed, rare_per_class (of the test
             cohort), calibration_rare_per_class (of the calibration cohort), and what else `CohortConfig`
             has, such as table_seed; otherwise seed (of the split), test_sites (the sites, between commas,
             whose patients are tested while those of the others train), and the arguments of the format's
             function, such as image_size.
    encoders modality to the name or folder of a transformers model that shall read it.
    skip_bad whether rows and files that cannot be read are left out, each time.
    """

    data: str
    root: str | None = None
    ontology: str = "icd10cm"
    options: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, str] = field(default_factory=dict)
    skip_bad: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_source(source: Source) -> None:
    """DataError for a source that cannot be: an unknown format, no such folder, an option of another."""
    if source.data not in ("cohort", *SOURCES):
        raise DataError(f"data is {source.data!r}, expected one of cohort, {', '.join(SOURCES)}")
    if (source.root is None) != (source.data == "cohort"):
        expected = "none: the cohort is built in" if source.root else f"the folder of {source.data}"
        raise DataError(f"root is {source.root!r}, expected {expected}")
    if source.root is not None and not Path(source.root).is_dir():
        raise DataError(f"root {source.root}: there is no such folder, expected that of {source.data}")
    known = _options(source)
    for name, value in source.options.items():
        if name not in known:
            raise DataError(
                f"option {name!r} is unknown for {source.data}, expected one of {', '.join(known)}"
            )
        kind = type(known[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise DataError(f"option {name} is {value!r}, expected {KIND_NAMES[kind]}")


def _options(source: Source) -> dict[str, Any]:
    """The options of a source, each with an example of its value (the default, but for two)."""
    if source.data != "cohort":
        _, *parameters = inspect.signature(SOURCES[source.data].loader()).parameters.values()
        named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return OF_THE_SPLIT | {p.name: p.default if p.default is not None else "folder" for p in named}
    from robustmdiff.data.cohort import CohortConfig

    own = {f.name: f.default for f in fields(CohortConfig) if f.name != "patients"}
    return SIZES | own | {"rare_per_class": 30, "calibration_rare_per_class": 30}


def with_encoders(task: Task, encoders: Mapping[str, str]) -> Task:
    """The task whose modalities are read by these transformers models (names or folders), or classes of the
    user's own ("package.module:Class"). What a modality's kind cannot be read by, `Task` refuses."""
    names = task.modality_names
    for name in encoders:
        if name not in names:
            raise DataError(f"encoder is given for {name!r}, expected one of {', '.join(names)}")
    modalities = (replace(m, encoder=encoders.get(m.name, m.encoder)) for m in task.modalities)
    return replace(task, modalities=tuple(modalities))


def read_patients(source: Source, bad: BadRows | None = None) -> tuple[list[Patient], Task]:
    """The patients of a source other than the cohort, not split, and their task. `bad` notes the rows and the
    pictures, each decoded once, that cannot be read, and says whether they are left out; without it pictures
    are read when they are needed, and the source says what becomes of rows."""
    check_source(source)
    if source.data == "cohort":
        raise DataError("data is 'cohort', expected patients from files: the cohort makes its own split")
    options = {name: value for name, value in source.options.items() if name not in OF_THE_SPLIT}
    rows = bad or BadRows(source.skip_bad)
    patients, task = SOURCES[source.data].loader()(source.root, **options, bad=rows)
    if bad is not None:
        patients = readable(patients, bad, quiet=False)
    return patients, with_encoders(task, source.encoders)
