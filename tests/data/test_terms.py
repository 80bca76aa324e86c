"""Two hospitals' tasks, compared: what is converted, what is renamed, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.task import Task
from robustmdiff.data.terms import terms

CRP = Field("crp", "mg/l", (0, 5))
SEX = Field("sex", categories=("F", "M"))
TEMPERATURE = Field("temperature", "°C", (36.0, 37.8))
LABS = Modality("labs", "values", fields=(CRP, SEX, TEMPERATURE))
CT = Modality("ct", "image", shape=(1, 2, 3), window=(-1000, 400))
NOTES = Modality("notes", "text")
RUN = Task((CT, NOTES, LABS), ("sick", "well", "dead"), (0.25, 0.25, 0.5), findings=("fever", "cough"))


def task(*modalities: Modality, **changes) -> Task:
    return replace(RUN, modalities=modalities, **changes)


def with_field(field: Field, at: int = 0) -> Task:
    fields = list(LABS.fields)
    fields[at] = field
    return task(CT, NOTES, replace(LABS, fields=tuple(fields)))


def test_a_patient_of_the_same_task_stays_as_they_are():
    same = terms(RUN, RUN, "two")
    assert same.same
    assert same.absent == ()
    patient = Patient(
        "a", {"labs": {"crp": 3.5, "sex": "M"}, "ct": np.ones((1, 2, 3), np.float32), "notes": None}
    )
    assert same.patient(patient) == patient


def test_what_says_nothing_of_how_values_are_read_may_differ():
    changes = {"cost": 7.0, "encoder": "a/model"}
    other = task(replace(CT, **changes, window=(-1000.0, 400.0)), NOTES, LABS, prevalence=(0.5, 0.25, 0.25))
    assert terms(RUN, replace(other, rare=("dead",)), "two").same


def test_names_of_channels_may_be_left_out_but_not_be_others():
    ours, swapped, silent = (
        task(replace(CT, shape=(2, 2, 3), channels=names), NOTES, LABS)
        for names in (("T1w", "T2w"), ("T2w", "T1w"), ())
    )
    assert terms(ours, ours, "two").same
    assert terms(ours, silent, "two").same
    assert terms(silent, ours, "two").same
    message = r"^two: modality 'ct': channels is \['T2w', 'T1w'\], expected \['T1w', 'T2w'\] as the run was"
    with pytest.raises(DataError, match=message):
        terms(ours, swapped, "two")


def test_a_patient_is_read_by_names_whatever_their_order_and_converted():
    other = Task(
        (
            Modality(
                "labs",
                "values",
                fields=(
                    Field("temperature", "°F", (96.8, 100.0)),
                    Field("sex", categories=("M", "F")),
                    Field("crp", "mg/dL", (0, 0.5)),
                ),
            ),
            CT,
        ),
        ("dead", "sick", "well"),
        (0.5, 0.25, 0.25),
        findings=("cough",),
    )
    read = terms(RUN, other, "two")
    assert not read.same
    assert read.absent == ("notes",)
    image = np.ones((1, 2, 3), np.float32)
    patient = Patient(
        "a",
        {"labs": {"crp": 8.4, "sex": "F", "temperature": 98.6}, "ct": image},
        labels={"sick": True},
        findings={"cough": False},
        site="north",
        group="anna",
    )
    ours = read.patient(patient)
    assert ours.modalities["labs"] == pytest.approx({"crp": 84.0, "temperature": 37.0, "sex": "F"}, abs=1e-12)
    assert ours == replace(patient, modalities={"labs": ours.modalities["labs"], "ct": image})
    assert read.patient(replace(patient, modalities={"labs": None})).modalities == {"labs": None}


def test_names_that_differ_by_unicode_alone_are_one():
    field = Field("größe", categories=("männlich", "weiblich"))
    ours = Task((Modality("träger", "values", fields=(field,)),), ("krank", "ärger"), (0.5, 0.5))
    apart = {letter: f"{letter}\u0308" for letter in "aou"}
    theirs_field = Field("gr" + apart["o"] + "ße", categories=("m" + apart["a"] + "nnlich",))
    theirs = Task(
        (Modality("tr" + apart["a"] + "ger", "values", fields=(theirs_field,)),),
        ("krank", apart["a"] + "rger"),
        (0.5, 0.5),
    )
    patient = Patient(
        "p",
        {theirs.modality_names[0]: {theirs_field.name: theirs_field.categories[0]}},
        labels={theirs.classes[1]: True},
        estimate={theirs.classes[1]: 0.75},
    )
    read = terms(ours, theirs, "two")
    assert not read.same
    assert read.patient(patient).modalities == {"träger": {"größe": "männlich"}}
    assert read.patient(patient).labels == {"ärger": True}
    assert read.patient(patient).estimate == {"ärger": 0.75}


def test_fields_and_modalities_that_they_lack_are_absent_and_told():
    read = terms(RUN, task(replace(LABS, fields=(SEX,)), classes=("well", "sick", "dead")), "two")
    assert read.absent == ("ct", "notes", "labs.crp", "labs.temperature")
    assert read.patient(Patient("a", {"labs": {"sex": "M"}})).modalities == {"labs": {"sex": "M"}}


REFERENCES = [  # ours, theirs, and whether they are one
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/l", (0, 5.0)), True),
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/l", (0, 6)), False),
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/l", (0, 4.95)), False),  # not rounded: nothing was converted
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/dl", (0, 0.5)), True),
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/dl", (0, 5)), False),
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/dl", (0, 1)), False),
    (Field("x", "mmHg", (35, 45)), Field("x", "kPa", (4.7, 6.0)), True),
    (Field("x", "kPa", (4.7, 6.0)), Field("x", "mmHg", (35, 45)), True),
    (Field("x", "mmHg", (35, 45)), Field("x", "kPa", (4.5, 6.0)), False),
    (Field("x", "°C", (36.0, 37.8)), Field("x", "°F", (96.8, 100)), True),
    (Field("x", "°C", (36.0, 37.8)), Field("x", "°F", (36.0, 37.8)), False),
    (Field("x", "mg/l", (0, 5)), Field("x", "mg/l"), True),  # nothing is said that could differ
    (Field("x", "mg/l"), Field("x", "mg/l", (0, 5)), True),
]


@pytest.mark.parametrize(("ours", "theirs", "one"), REFERENCES)
def test_a_reference_range_is_the_same_after_conversion_or_refused(ours, theirs, one):
    ours, theirs = with_field(ours), with_field(theirs)
    if one:
        assert terms(ours, theirs, "two").absent == ()
        return
    with pytest.raises(DataError, match=r"^two: modality 'labs', field 'x': reference is \["):
        terms(ours, theirs, "two")


REFUSED = {
    "a unit that needs a molar mass": (
        with_field(Field("crp", "mmol/l")),
        "two: modality 'labs', field 'crp': unit is 'mmol/l', expected 'mg/l' as the run was trained with; "
        "they differ by a molar mass, which is not known",
    ),
    "a unit that is not stated": (
        with_field(Field("crp")),
        "two: modality 'labs', field 'crp': unit is '', expected 'mg/l' as the run was trained with; one of "
        "the two states no unit",
    ),
    "a reference in another unit": (
        with_field(Field("crp", "mg/dl", (0, 1))),
        "two: modality 'labs', field 'crp': reference is [0, 1], expected [0, 5] as the run was trained with "
        "(theirs is 0 to 10 mg/l); leave it out if the values can be compared all the same",
    ),
    "a category more": (
        with_field(Field("sex", categories=("F", "M", "X")), 1),
        "two: modality 'labs', field 'sex': category 'X' is unknown to the run, expected one of F, M",
    ),
    "a category in another case": (
        with_field(Field("sex", categories=("f", "M")), 1),
        "two: modality 'labs', field 'sex': category 'f' is unknown to the run (did you mean 'F'?), "
        "expected one of F, M",
    ),
    "categories for a number": (
        with_field(Field("crp", categories=("high", "low"))),
        "two: modality 'labs', field 'crp': categories is ['high', 'low'], expected [] as the run was trained"
        " with",
    ),
    "a number for categories": (
        with_field(Field("sex", "1"), 1),
        "two: modality 'labs', field 'sex': categories is [], expected ['F', 'M'] as the run was trained "
        "with",
    ),
    "a field that is not known": (
        with_field(Field("CRP", "mg/l")),
        "two: modality 'labs', field 'CRP' is unknown to the run (did you mean 'crp'?), "
        "expected one of crp, sex, temperature",
    ),
    "a window": (
        task(replace(CT, window=(-1.0, 0.4)), NOTES, LABS),
        "two: modality 'ct': window is [-1.0, 0.4], expected [-1000, 400] as the run was trained with",
    ),
    "a shape": (
        task(replace(CT, shape=(1, 4, 4)), NOTES, LABS),
        "two: modality 'ct': shape is [1, 4, 4], expected [1, 2, 3] as the run was trained with",
    ),
    "a kind": (
        task(CT, Modality("notes", "values", fields=(CRP,)), LABS),
        "two: modality 'notes': kind is 'values', expected 'text' as the run was trained with",
    ),
    "a modality that is not known": (
        task(CT, Modality("note", "text"), LABS),
        "two: modality 'note' is unknown to the run (did you mean 'notes'?), expected one of ct, notes, labs",
    ),
    "a class that is not known": (
        replace(RUN, classes=("sick", "well", "death")),
        "two: class 'death' is unknown to the run (did you mean 'dead'?), expected one of sick, well, dead",
    ),
    "a finding that is not known": (
        replace(RUN, findings=("wheeze",)),
        "two: finding 'wheeze' is unknown to the run, expected one of fever, cough",
    ),
    "classes that may hold together": (
        replace(RUN, multilabel=True),
        "two: multilabel is True, expected False as the run was trained with",
    ),
}


@pytest.mark.parametrize(("theirs", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_differs_is_refused_by_modality_and_field(theirs, message):
    with pytest.raises(DataError) as error:
        terms(RUN, theirs, "two")
    assert str(error.value) == message
