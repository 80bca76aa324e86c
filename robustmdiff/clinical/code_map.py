"""Which code is which column: a small JSON file that the user writes.

    {
      "structured.crp": {"codes": ["1988-5", "C-reactive protein"]},
      "structured.sex": {"codes": ["Patient.gender"], "categories": {"female": "F", "male": "M"}},
      "notes": {"codes": ["11506-3"]},
      "xray": {"codes": ["DX", "CR"]}
    }

Columns are named as in patients.csv: a field as modality.field, a text or an image as its modality. A code is
a LOINC code (of an image: DICOM's code of its Modality), "SYSTEM|CODE" of any other terminology, or a display
text. A column that is not named goes by its own name, as a display text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.task import Task
from robustmdiff.data.task_file import read_task_file
from robustmdiff.spelling import canonical, unknown

LOINC, DCM = "http://loinc.org", "http://dicom.nema.org/resources/ontology/DCM"


class Column(NamedTuple):
    """A place of a task's patients: a modality, and of a values modality one of its fields."""

    modality: Modality
    field: Field | None = None

    def __str__(self) -> str:
        return self.modality.name if self.field is None else f"{self.modality.name}.{self.field.name}"


class CodeMap:
    """columns     of the task, by name
    named       those that the user's file names
    categories  of a column what is said there (in one spelling) to the field's own category
    """

    def __init__(self, task: Task, read: Mapping[str, Any] | None = None, where: str = "map") -> None:
        """What a mapping of JSON says; without one every column goes by its own name, where no other has
        it. Raises DataError for a column that the task has not, and for a code of two columns."""
        read = read or {}
        self.columns = {str(column): column for column in columns_of(task)}
        self.named = frozenset(read)
        self.categories: dict[str, dict[str, str]] = {}
        self._column: dict[str, str] = {}
        for name, entry in read.items():
            if name not in self.columns:
                raise DataError(f"{where}: {unknown('column', name, self.columns)}")
            for code in _codes(entry, f"{where}: {name!r}"):
                other = self._column.setdefault(said(code), name)
                if other != name:
                    raise DataError(f"{where}: {code!r} is of {other!r} and of {name!r}, expected one column")
            self.categories[name] = _categories(entry, self.columns[name], f"{where}: {name!r}")
        own = {name: said(c.field.name if c.field else name) for name, c in self.columns.items()}
        often = Counter(own.values())
        for name in self.columns.keys() - self.named:
            if often[own[name]] == 1:
                self._column.setdefault(own[name], name)

    def column(self, names: Iterable[str], kind: str) -> Column | None:
        """The column of this kind ("image", "text", "values") that goes by one of the names, which are as
        `said` writes them."""
        for name in names:
            column = self.columns.get(self._column.get(name, ""))
            if column is not None and column.modality.kind == kind:
                return column
        return None


def read_code_map(path: Path | None, task: Task) -> CodeMap:
    """Raises DataError for a file that is none, naming it and the column."""
    return CodeMap(task) if path is None else CodeMap(task, read_task_file(path), path.name)


def columns_of(task: Task) -> Iterator[Column]:
    for modality in task.modalities:
        yield from (Column(modality, field) for field in modality.fields or (None,))


def said(text: str) -> str:
    """A code or a text in the spelling in which they are compared."""
    return canonical(text).casefold()


def names_of(concepts: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of FHIR CodeableConcepts: their codes first, then their texts."""
    codes, texts = [], []
    for concept in concepts:
        for coding in concept.get("coding", ()):
            system, code = coding.get("system"), coding.get("code")
            if code and system in (LOINC, DCM):
                codes.append(said(code))
            if code and system:
                codes.append(said(f"{system}|{code}"))
            texts.append(said(coding.get("display", "")))
        texts.append(said(concept.get("text", "")))
    return [name for name in (*codes, *texts) if name]


def _codes(entry: Any, where: str) -> list[str]:
    codes = entry.get("codes") if isinstance(entry, Mapping) else None
    if not isinstance(codes, list) or not codes or not all(isinstance(c, str) and said(c) for c in codes):
        raise DataError(f'{where} is {entry!r}, expected {{"codes": [one or more texts]}}')
    unused = sorted(entry.keys() - {"codes", "categories"})
    if unused:
        raise DataError(f"{where}: {unknown('key', unused[0], ('codes', 'categories'))}")
    return codes


def _categories(entry: Mapping[str, Any], column: Column, where: str) -> dict[str, str]:
    read = entry.get("categories", {})
    known: Collection[str] = column.field.categories if column.field else ()
    if not isinstance(read, Mapping):
        raise DataError(f"{where}: categories is {read!r}, expected what is said to the field's category")
    for category in read.values():
        if category not in known:
            raise DataError(f"{where}: {unknown('category', category, known)}")
    return {said(text): category for text, category in read.items()}
