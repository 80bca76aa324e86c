"""What is said of the patients of one site, sex or age."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.evaluation.conditions import COMPLETE, MCAR, MNAR, mcar
from robustmdiff.evaluation.pooling import over_seeds
from robustmdiff.evaluation.protocol import evaluate
from robustmdiff.evaluation.report import to_json, write_report
from robustmdiff.evaluation.subgroups import EVERYONE, groups_of, subgroups

TASK = Task(
    modalities=(Modality("panel", "values", fields=(Field("Sex", categories=("f", "m")), Field("age"))),),
    classes=("well", "ill"),
    prevalence=(0.5, 0.5),
)


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "under 18"),
        (17.9, "under 18"),
        (18, "18 to 39"),
        (40, "40 to 64"),
        (64, "40 to 64"),
        (65, "65 or older"),
    ],
)
def test_age_bands(age, band):
    assert groups_of(Patient("p", {}, age=age)) == (f"age {band}",)
    assert groups_of(Patient("p", {"panel": {"Age": age}})) == (f"age {band}",)


def test_groups_are_what_is_recorded():
    panel = {"panel": {"Sex": "f", "age": 70.0}, "note": "sex: m", "labs": None}
    assert groups_of(Patient("p", panel, site="north")) == ("site north", "sex f", "age 65 or older")
    assert groups_of(Patient("p", panel, age=30.0)) == ("sex f", "age 18 to 39")  # the patient's own first
    assert groups_of(Patient("p", {"panel": {"sex": 1.0, "age": "old"}})) == ()
    assert groups_of(Patient("p", {})) == ()


def test_subgroups_in_their_order():
    found = subgroups([("age 65 or older",), ("site b", "sex m", "age under 18"), ("site a",), ()])
    assert list(found) == [EVERYONE, "site a", "site b", "sex m", "age under 18", "age 65 or older"]
    assert found["site b"].tolist() == [False, True, False, False]
    assert found[EVERYONE].all()
    assert subgroups([(), ()]) == {}


def ward():
    """At "good" the stated .8 is right for eight of ten; at "bad" for five of ten, and at "tiny" are nine."""
    patients, stated = [], []
    for site, people, right in (("good", 50, 0.8), ("bad", 50, 0.5), ("tiny", 9, 0.8)):
        for i in range(people):
            well = i % 10 < 10 * right
            patients.append(
                Patient(
                    f"{site}-{i}",
                    {"panel": {"Sex": "fm"[i % 2], "age": 20.0 + i}},
                    labels={"well": well, "ill": not well},
                    site=site,
                )
            )
            stated.append([0.8, 0.2])
    return patients, np.array(stated)


def asked(patients, stated, **options):
    return evaluate(
        {},
        patients,
        Collator(TASK),
        TASK,
        references={"reader": lambda left: stated},
        replicates=50,
        **options,
    )


def test_a_site_where_the_model_is_too_sure_is_found(tmp_path, undrawn):
    found = asked(*ward())
    good, bad = (
        found.of_group(f"site {site}", "reader", COMPLETE, "in_the_large") for site in ("good", "bad")
    )
    assert good.value == pytest.approx(0)
    assert bad.value == pytest.approx(0.3)
    assert good.low < 0 < good.high
    assert 0.1 < bad.low < bad.high < 0.5
    assert found.of_group("site bad", "reader", MCAR(0.5), "ece").value == pytest.approx(0.3)
    assert found.of_group("site tiny", "reader", COMPLETE, "ece") is None
    whole = found.interval("reader", COMPLETE, "ece")
    assert found.of_group(EVERYONE, "reader", COMPLETE, "ece").value == pytest.approx(whole.value)
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    section = text.split("## Group by group: reader")[1].split("##")[0]
    lines = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("|")}
    names = [
        "everyone",
        "site bad",
        "site good",
        "site tiny",
        "sex f",
        "sex m",
        "age 18 to 39",
        "age 40 to 64",
    ]
    assert [name for name in lines if name in names] == names
    assert lines["site tiny"].split("|")[2:4] == [" 9 ", " 9 "]
    assert not "".join(lines["site tiny"].split("|")[4:]).strip()
    assert str(bad) in lines["site bad"]
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["groups"]
    assert stored["site tiny"] == {"people": 9, "records": 9, "methods": {}}
    assert stored["site bad"]["methods"]["reader"]["mcar/0.0"]["in_the_large"][0] == pytest.approx(0.3)


def test_a_person_with_many_records_is_one():
    patients, stated = ward()
    patients = [replace(p, group=f"{p.site} {i % 12}") for i, p in enumerate(patients)]
    found = asked(patients, stated)
    assert found.of_group("site bad", "reader", COMPLETE, "ece") is None  # 50 records of 12 people
    assert to_json(found)["groups"]["site bad"]["people"] == 12


def test_nothing_is_said_where_nothing_is_recorded(tmp_path, undrawn):
    patients, stated = ward()
    patients = [replace(p, modalities={}, site=None) for p in patients]
    text = write_report(asked(patients, stated), tmp_path).read_text(encoding="utf-8")
    assert "Group by group" not in text


def test_seeds_are_averaged_group_by_group():
    patients, stated = ward()
    runs = [asked(patients, stated), asked(patients, np.array([0.6, 0.4]) * np.ones_like(stated))]
    mean = over_seeds(runs).of_group("site bad", "reader", COMPLETE, "in_the_large")
    assert mean.value == pytest.approx((0.3 + 0.1) / 2)


def test_missing_not_at_random_is_one_more_condition(tmp_path, undrawn):
    """On the built-in cohort, whose mechanism is known; sicker patients lose other modalities."""
    cohort = make_cohort(CohortConfig(patients=300, seed=3, image_size=16))
    bare = [
        Patient(f"p{i}", {}, labels=dict(zip(cohort.task.classes, y.tolist(), strict=True)), age=40.0)
        for i, y in enumerate(cohort.labels)
    ]
    collator = Collator(replace(cohort.task, modalities=TASK.modalities))
    asked = []

    def mnar(rate, seed):
        asked.append((rate, seed))
        return cohort.mask("mnar", rate, seed)[:, :1]

    task = collator.task
    found = evaluate(
        {}, bare, collator, task, references={"flat": lambda left: np.tile(task.prevalence, (300, 1))},
        mnar=mnar, seed=4, replicates=5,
    )  # fmt: skip
    assert asked == [(0.5, 4)]
    np.testing.assert_array_equal(found.masks.keep[MNAR(0.5)], cohort.mask("mnar", 0.5, 4)[:, :1])
    assert found.tabled == {"complete": COMPLETE, "half": mcar(0.5), "half, MNAR": MNAR(0.5)}
    text = write_report(found, tmp_path).read_text(encoding="utf-8")
    assert "## Missing 0.5, by severity (not at random)" in text
    assert (
        "mnar/0.5"
        in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["methods"]["flat"][
            "conditions"
        ]
    )
    again = evaluate(
        {}, bare, collator, task, references={"flat": lambda left: np.tile(task.prevalence, (300, 1))},
        masks=found.masks, replicates=5,
    )  # fmt: skip
    assert MNAR(0.5) in again.values["flat"]
