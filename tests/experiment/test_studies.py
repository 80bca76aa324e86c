from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from robustmdiff.data.cohort.config import DEVELOPED_ON
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.folder import write_template
from robustmdiff.data.task import Task
from robustmdiff.experiment.source import Source, with_encoders
from robustmdiff.experiment.studies import load_study, study_in_terms_of
from robustmdiff.refusal import Refusal

LABS = Modality("labs", "values", fields=(Field("crp"),))
TASK = Task(
    (Modality("notes", "text"), Modality("letter", "text"), LABS), ("ill", "well", "rare"), (0.5, 0.25, 0.25)
)


def test_encoders_replace_those_of_the_task():
    task = with_encoders(TASK, {"letter": "a/model"})
    assert [m.encoder for m in task.modalities] == [None, "a/model", None]
    with pytest.raises(DataError, match="given for 'lettre', expected one of notes, letter, labs"):
        with_encoders(TASK, {"lettre": "a/model"})
    with pytest.raises(Refusal, match=r"'labs': encoder is 'a/model', expected 'package\.module:Class'"):
        with_encoders(TASK, {"labs": "a/model"})
    assert with_encoders(TASK, {"labs": "of.mine:Class"}).modality("labs").encoder == "of.mine:Class"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        sizes = {"train": 8, "calibration": 5, "test": 6, "image_size": 16}
        yield load_study(
            Source("cohort", options=sizes | {"rare_per_class": 2, "rate": 0.3, "missingness": "mcar"})
        )


def test_the_cohort_s_three_parts_are_different_people(cohort):
    sizes = {name: len(patients) for name, patients in cohort.patients.items()}
    assert sizes["train"] == 8
    assert sizes["calibration"] == 5
    assert sizes["test"] >= 6  # with the rare ones that were added
    ids = [p.id for patients in cohort.patients.values() for p in patients]
    assert len(set(ids)) == len(ids)
    assert cohort.weight.shape == (sizes["test"],)
    assert cohort.posterior is not None


@pytest.mark.parametrize("option", ["aligned", "lateral"])
def test_where_one_image_shows_a_part_of_another_a_cohort_has_no_ceiling(option, monkeypatch, tmp_path):
    monkeypatch.setenv("RMD_CACHE", str(tmp_path))
    sizes = {"train": 3, "calibration": 3, "test": 3, "image_size": 16, "correlation": 0.3}
    study = load_study(Source("cohort", options=sizes | {option: True}))
    assert (study.posterior, study.independent) == (None, None)
    assert study.mnar(0.5, 0).shape == (3, len(study.task.modalities))
    assert any(f"{option}=True" in note for note in study.notes)


def test_calibration_patients_are_enriched_by_an_option_of_their_own(cohort, monkeypatch, tmp_path):
    monkeypatch.setenv("RMD_CACHE", str(tmp_path))
    options = dict(cohort.source.options) | {"calibration": 40, "calibration_rare_per_class": 6}
    study = load_study(Source("cohort", options=options))
    label = np.array([list(p.labels.values()) for p in study.patients["calibration"]])
    weight = study.calibration_weight
    assert (label[:, -3:].sum(axis=0) == 6).all()
    assert weight.mean() == pytest.approx(1)
    # Of the classes that are there, each weighs what it does in the population.
    prevalence = np.array(study.task.prevalence) * label.any(axis=0)
    np.testing.assert_allclose(weight @ label / weight.sum(), prevalence / prevalence.sum())
    # Nobody else is changed by it.
    assert cohort.calibration_weight is None
    for name in ("train", "test"):
        assert [p.id for p in study.patients[name]] == [p.id for p in cohort.patients[name]]
    np.testing.assert_array_equal(study.weight, cohort.weight)


def test_correlation_is_an_option_of_all_three_parts(monkeypatch, tmp_path):
    monkeypatch.setenv("RMD_CACHE", str(tmp_path))
    sizes = {"train": 20, "calibration": 20, "test": 20, "image_size": 16}
    plain, correlated = (
        load_study(Source("cohort", options=sizes | more)) for more in ({}, {"correlation": 0.6})
    )
    for name in sizes.keys() - {"image_size"}:
        a, b = (study.patients[name] for study in (plain, correlated))
        assert [p.labels for p in a] == [p.labels for p in b]
        assert [p.findings for p in a] != [p.findings for p in b]
    np.testing.assert_array_equal(plain.concepts.frequency, correlated.concepts.frequency)


def test_a_study_says_which_disease_table_its_patients_are_of(cohort, tmp_path):
    written, warned = cohort.notes
    assert "seed=0, table_seed=0" in written
    assert "rare_per_class=2" in written
    assert "developed on this disease table" in warned
    study = replace(cohort, source=Source("cohort", options={"table_seed": 101, "seed": 7}))
    assert study.notes == ("Patients of the built-in cohort: seed=7, table_seed=101.",)
    assert 101 not in DEVELOPED_ON
    write_template(tmp_path / "data")
    assert load_study(Source("folder", root=str(tmp_path / "data"))).notes == ()


def test_find_looks_in_every_part(cohort):
    for patients in cohort.patients.values():
        assert cohort.find(patients[-1].id).id == patients[-1].id
    first = cohort.patients["test"][0].id
    with pytest.raises(DataError, match=f"no patient 'x' in this study; test patients are {first}, "):
        cohort.find("x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("hospital"), "data is 'hospital', expected one of cohort, chestxray"),
        (Source("cohort", root="here"), "root is 'here', expected none: the cohort is built in"),
        (Source("folder"), "root is None, expected the folder of folder"),
        (Source("folder", root="nowhere"), "root nowhere: there is no such folder"),
        (Source("cohort", options={"patients": 3}), "option 'patients' is unknown for cohort"),
        (Source("cohort", options={"rate": "half"}), "option rate is 'half', expected a number"),
        (Source("cohort", options={"test": 2.5}), "option test is 2.5, expected a whole number"),
        (Source("cohort", options={"multilabel": 1}), "option multilabel is 1, expected true or false"),
        (Source("covid", root=".", options={"level": 2}), "option 'level' is unknown for covid"),
        (Source("chestxray", root=".", options={"level": "2"}), "option level is '2', expected a whole"),
    ],
)
def test_a_source_that_cannot_be(source, message):
    with pytest.raises(DataError, match=message):
        load_study(source)


def test_a_number_may_be_whole_where_any_will_do():
    with pytest.raises(ValueError, match="rate is 1"):  # the cohort's own sentence: the kind was right
        load_study(Source("cohort", options={"rate": 1, "missingness": "mcar"}))


def test_too_few_patients_to_split(tmp_path):
    write_template(tmp_path / "data")
    table = tmp_path / "data" / "patients.csv"
    table.write_text(
        "".join(table.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8"
    )
    with pytest.raises(DataError, match="has 2 labelled patients, expected at least 3"):
        load_study(Source("folder", root=str(tmp_path / "data")))


def test_the_study_of_a_folder(tmp_path):
    write_template(tmp_path / "data")
    study = load_study(Source("folder", root=str(tmp_path / "data")))
    assert sorted(p.id for patients in study.patients.values() for p in patients) == ["p1", "p2", "p3"]
    assert sum(study.task.prevalence) == pytest.approx(1)
    assert {"pneumonia", "no pneumonia", "fever"} <= set(study.concepts.name)
    assert study.weight is None


def ward(root, column, people=40):
    """Records of a folder, two to a person; `column` says the split of a person."""
    write_template(root)
    table = root / "patients.csv"
    header = table.read_text(encoding="utf-8").splitlines()[0]
    rows = [
        f"r{person}-{visit},person {person},{column(person)},north,50,"
        f"{'pneumonia' if person % 3 else 'no pneumonia'},,,cough,4,F"
        for person in range(people)
        for visit in range(2)
    ]
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return Source("folder", root=str(root))


def people_of(study):
    return {name: {p.group for p in patients} for name, patients in study.patients.items()}


def test_prevalence_is_what_the_folder_states_or_else_counted_in_training(tmp_path):
    source = ward(tmp_path / "data", lambda person: "test" if person % 4 == 0 else "train")
    study = load_study(source)
    training = study.patients["train"]
    ill = sum(patient.labels.get("pneumonia", False) for patient in training)
    assert study.task.prevalence == pytest.approx(
        ((ill + 1) / (len(training) + 2), (len(training) - ill + 1) / (len(training) + 2))
    )
    path = tmp_path / "data" / "task.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    assert described["classes"] == ["pneumonia", "no pneumonia"]
    path.write_text(json.dumps(described | {"prevalence": [0.02, 0.98]}), encoding="utf-8")
    assert load_study(source).task.prevalence == (0.02, 0.98)


def test_rare_are_the_classes_that_the_folder_names_or_else_those_under_5_per_cent(tmp_path):
    source = ward(tmp_path / "data", lambda person: "test" if person % 4 == 0 else "train")
    assert load_study(source).task.rare == ()
    path = tmp_path / "data" / "task.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    for stated, rare in (
        ({"prevalence": [0.04, 0.96]}, ("pneumonia",)),
        ({"prevalence": [0.05, 0.95]}, ()),
        ({"prevalence": [0.04, 0.96], "rare": ["no pneumonia"]}, ("no pneumonia",)),
    ):
        path.write_text(json.dumps(described | stated), encoding="utf-8")
        assert load_study(source).task.rare == rare


def test_a_run_keeps_its_own_rare_classes(cohort):
    before = replace(cohort.task, rare=())  # as an earlier version trained it
    assert study_in_terms_of(before, cohort).task == before


def test_a_folder_s_own_split_is_kept(tmp_path):
    names = ("train", "train", "calibration", "test", "")
    study = load_study(ward(tmp_path / "data", lambda person: names[person % 5]))
    expected = {f"person {p}": names[p % 5] for p in range(40)}
    for name, people in people_of(study).items():
        assert people == {person for person, split in expected.items() if split == name}


def test_calibration_comes_out_of_training_where_nobody_is_named_for_it(tmp_path):
    study = load_study(ward(tmp_path / "data", lambda person: "test" if person % 4 == 0 else "train"))
    people = people_of(study)
    assert people["test"] == {f"person {p}" for p in range(0, 40, 4)}
    assert len(people["calibration"]) in (7, 8)
    assert not people["train"] & people["calibration"]
    assert len(people["train"] | people["calibration"]) == 30


def test_a_split_of_other_names(tmp_path):
    source = ward(tmp_path / "data", lambda person: "train" if person else "holdout")
    with pytest.raises(DataError, match="column 'split' has holdout, train, expected train and test"):
        load_study(source)


def test_without_a_split_people_stay_together(tmp_path):
    people = people_of(load_study(ward(tmp_path / "data", lambda person: "")))
    assert sum(map(len, people.values())) == 40
    assert [len(people[name]) for name in ("train", "calibration", "test")] == [24, 8, 8]


def wards(root, sites):
    """Two records to a person; `sites` says where they were made, of the person and the visit."""
    source = ward(root, lambda person: "")
    table = root / "patients.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    rows = [row.replace(",north,", f",{sites(i // 2, i % 2)},") for i, row in enumerate(rows)]
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return source


def test_the_patients_of_named_sites_are_tested_and_those_of_the_others_train(tmp_path):
    source = wards(tmp_path / "data", lambda person, visit: ("north", "south", "east", "")[person % 4])
    study = load_study(replace(source, options={"test_sites": "south, east"}))
    assert {p.site for p in study.patients["test"]} == {"south", "east"}
    people = people_of(study)
    assert people["test"] == {f"person {p}" for p in range(40) if p % 4 in (1, 2)}
    others = people["train"] | people["calibration"]
    assert others == {f"person {p}" for p in range(40) if p % 4 in (0, 3)}
    assert (len(people["train"]), len(people["calibration"])) == (15, 5)
    again = load_study(replace(source, options={"test_sites": "south, east", "seed": 1}))
    assert people_of(again)["test"] == people["test"]
    assert people_of(again)["train"] != people["train"]


def test_nobody_who_is_tested_at_a_named_site_trains_at_another(tmp_path):
    source = wards(tmp_path / "data", lambda person, visit: "south" if person < 10 and visit else "north")
    study = load_study(replace(source, options={"test_sites": "south"}))
    assert [p.site for p in study.patients["test"]] == ["south"] * 10
    people = people_of(study)
    assert people["train"] | people["calibration"] == {f"person {p}" for p in range(10, 40)}


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("west", r"option test_sites has 'west', expected sites of labelled patients: north"),
        ("north,", r"option test_sites has '', expected sites of labelled patients: north"),
        (3, r"option test_sites is 3, expected text"),
    ],
)
def test_sites_that_nobody_comes_from(tmp_path, sites, message):
    source = ward(tmp_path / "data", lambda person: "")
    with pytest.raises(DataError, match=message):
        load_study(replace(source, options={"test_sites": sites}))
