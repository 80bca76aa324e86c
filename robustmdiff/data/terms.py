"""Patients of one task in the terms of another: a run meets another hospital's folder.

A value means nothing without its unit, its window, its categories. `terms` compares what two tasks
say of them, by name and never by place, and either knows how to read the one as the other or refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.tables.units import SAME, Conversion, conversion
from robustmdiff.data.task import Task
from robustmdiff.spelling import canonical, did_you_mean

OWN = {"name", "fields", "encoder", "cost"}  # of a modality: not about how its values are to be read
ROUNDED = 0.05  # of a reference range's width: 4.7 to 6.0 kPa is written 35 to 45 mmHg


class Cell(NamedTuple):
    """What a field of theirs is to us: our name of it, our unit or our names of the categories."""

    name: str
    conversion: Conversion = SAME
    categories: Mapping[str, str] = {}

    def __call__(self, value: Any) -> float | str:
        return self.categories[value] if self.categories else self.conversion(value)


@dataclass(frozen=True)
class Terms:
    """modalities, classes, findings  their names to ours
    cells     of each modality of theirs, their field's name to what it is to us
    absent    our modalities, and our fields of modalities that they have ("labs.crp"), that they lack
    """

    modalities: Mapping[str, str]
    cells: Mapping[str, Mapping[str, Cell]]
    classes: Mapping[str, str]
    findings: Mapping[str, str]
    absent: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every patient stays as they are."""
        cells = [(name, cell) for of in self.cells.values() for name, cell in of.items()]
        renamed = [self.modalities, self.classes, self.findings, *(cell.categories for _, cell in cells)]
        return all(theirs == ours for names in renamed for theirs, ours in names.items()) and all(
            name == cell.name and cell.conversion == SAME for name, cell in cells
        )

    def patient(self, patient: Patient) -> Patient:
        """A patient of theirs as one of ours."""
        return replace(
            patient,
            modalities={
                self.modalities[name]: self._observation(name, observation)
                for name, observation in patient.modalities.items()
            },
            labels={self.classes[name]: holds for name, holds in patient.labels.items()},
            findings={self.findings[name]: holds for name, holds in patient.findings.items()},
            estimate={self.classes[name]: stated for name, stated in patient.estimate.items()},
        )

    def _observation(self, name: str, observation: Any) -> Any:
        if not self.cells[name] or observation is None:
            return observation
        cells = ((self.cells[name][field], value) for field, value in observation.items())
        return {cell.name: cell(value) for cell, value in cells}


def terms(ours: Task, theirs: Task, where: str) -> Terms:
    """How patients of the task `theirs`, of the folder `where`, are read as patients of `ours`.

    Numbers are converted where the units allow it, categories, classes and findings go by their names in
    whatever order, and what they do not have is absent. DataError, with the modality, the field and both
    values, where they have what we do not know (a modality, a field, a category, a class, a finding) or
    say another thing of what we both have (kind, shape, window, names of channels, a unit of another
    dimension, a reference range that is another after conversion, exclusive classes or not). Prevalence and
    costs are ours.
    """
    if ours.multilabel != theirs.multilabel:
        raise _differs(where, "multilabel", theirs.multilabel, ours.multilabel)
    modality_of = {m.name: m for m in ours.modalities}
    names = _names(theirs.modality_names, modality_of, f"{where}: modality")
    cells: dict[str, dict[str, Cell]] = {}
    absent = [name for name in modality_of if name not in names.values()]
    for modality in theirs.modalities:
        our = modality_of[names[modality.name]]
        cells[modality.name] = _cells(our, modality, f"{where}: modality {modality.name!r}")
        known = {cell.name for cell in cells[modality.name].values()}
        absent += [f"{our.name}.{field.name}" for field in our.fields if field.name not in known]
    return Terms(
        modalities=names,
        cells=cells,
        classes=_names(theirs.classes, ours.classes, f"{where}: class"),
        findings=_names(theirs.findings, ours.findings, f"{where}: finding"),
        absent=tuple(absent),
    )


def _cells(ours: Modality, theirs: Modality, where: str) -> dict[str, Cell]:
    our, their = asdict(ours), asdict(theirs)
    for key in our.keys() - OWN:
        unsaid = key == "channels" and not (our[key] and their[key])  # nobody need name them
        if not unsaid and _listed(our[key]) != _listed(their[key]):
            raise _differs(where, key, their[key], our[key])
    field_of = {field.name: field for field in ours.fields}
    names = _names([field.name for field in theirs.fields], field_of, f"{where}, field")
    return {
        field.name: _cell(field_of[names[field.name]], field, f"{where}, field {field.name!r}")
        for field in theirs.fields
    }


def _cell(ours: Field, theirs: Field, where: str) -> Cell:
    if bool(ours.categories) != bool(theirs.categories):
        raise _differs(where, "categories", theirs.categories, ours.categories)
    if ours.categories:
        names = _names(theirs.categories, ours.categories, f"{where}: category")
        return Cell(ours.name, categories=names)
    try:
        convert = conversion(theirs.unit, ours.unit)
    except ValueError as error:
        raise _differs(where, "unit", theirs.unit, ours.unit, f"; {error}") from error
    if ours.reference and theirs.reference:
        _check_reference(ours, theirs, convert, where)
    return Cell(ours.name, convert)


def _check_reference(ours: Field, theirs: Field, convert: Conversion, where: str) -> None:
    """Another range is another method or another population, unless it was converted and rounded."""
    assert ours.reference is not None
    assert theirs.reference is not None
    low, high = (convert(end) for end in theirs.reference)
    rounded = (1e-6 if convert == SAME else ROUNDED) * (ours.reference[1] - ours.reference[0])
    if abs(low - ours.reference[0]) > rounded or abs(high - ours.reference[1]) > rounded:
        converted = "" if convert == SAME else f" (theirs is {low:g} to {high:g} {ours.unit})"
        hint = f"{converted}; leave it out if the values can be compared all the same"
        raise _differs(where, "reference", theirs.reference, ours.reference, hint)


def _names(theirs: Iterable[str], ours: Iterable[str], what: str) -> dict[str, str]:
    """Their names to ours, as names are compared; each of theirs must be one of ours."""
    known = {canonical(name): name for name in ours}
    for name in theirs:
        if canonical(name) not in known:
            hint = did_you_mean(name, known.values())
            expected = f"expected one of {', '.join(known.values())}" if known else "expected none"
            raise DataError(f"{what} {name!r} is unknown to the run{hint}, {expected}")
    return {name: known[canonical(name)] for name in theirs}


def _differs(where: str, key: str, theirs: Any, ours: Any, why: str = "") -> DataError:
    return DataError(
        f"{where}: {key} is {_listed(theirs)!r}, expected {_listed(ours)!r} as the run was trained with{why}"
    )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
