"""A run is asked about another hospital's folder, and about its own after task.json has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustmdiff.cli.explain import explain_run
from robustmdiff.cli.predict import predict_run
from robustmdiff.data.patient import DataError
from robustmdiff.data.pictures.read import ImageFile
from robustmdiff.data.sources.folder import LOOKED_AT
from robustmdiff.data.splits import load_split
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.experiment import studies
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.other_patients import named_source, unseen_study
from robustmdiff.experiment.run import load_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.training.config import TrainConfig

ONTOLOGY = "format-version: 1.2\n\n[Term]\nid: X:1\nname: sick\n\n[Term]\nid: X:2\nname: well\n"
MODEL = ModelConfig(d_h=8, layers=1, heads=2, patch=8, width=12, depth=1, steps=2, draws=3, T=50)
CONFIG = TrainConfig(
    model=MODEL, epochs=8, valid_every=8, batch_size=8, learning_rate=3e-3, monitor="log_loss"
)
PEOPLE = 40
CRP = {"name": "crp", "unit": "mg/l", "reference": [0, 5]}
WBC = {"name": "wbc", "unit": "10^9/l"}
HEAT = {"name": "temperature", "unit": "°C", "reference": [36.0, 37.8]}
GENE = {"name": "gene", "categories": ["wild", "het", "hom"]}
CT = {"name": "ct", "kind": "image", "shape": [1, 8, 8], "window": [-1000, 400]}
ONE = {"modalities": [CT, {"name": "labs", "kind": "values", "fields": [CRP, WBC, HEAT, GENE]}]}
ONE |= {"classes": ["sick", "well"], "findings": ["fever", "cough"]}
# The same people at another hospital: units, spellings, and the order of everything.
TWO_LABS = [
    {"name": "gene", "categories": ["hom", "wild", "het"]},
    {"name": "temperature", "unit": "°F", "reference": [96.8, 100.0]},
    {"name": "crp", "unit": "mg/dL", "reference": [0, 0.5]},
    {"name": "wbc", "unit": "/µl"},
]
TWO = {"modalities": [{"name": "labs", "kind": "values", "fields": TWO_LABS}, CT]}
TWO |= {"classes": ["well", "sick"], "findings": ["cough", "fever"]}


def write_folder(root: Path, task: dict[str, Any], *, other: bool) -> Path:
    """Forty people, half of them sick; with `other` in the units of TWO."""
    root.mkdir(exist_ok=True)
    (root / "task.json").write_text(json.dumps(task), encoding="utf-8")
    rng = np.random.default_rng(1)
    columns = ["id", "label", "finding:fever", "ct", "labs.crp", "labs.wbc", "labs.temperature", "labs.gene"]
    rows = [",".join(columns)]
    for i in range(PEOPLE):
        sick = i % 2
        np.save(root / f"{i}.npy", rng.normal(100 if sick else -300, 50, (8, 8)).astype(np.float32))
        crp = round(float(rng.normal(100 if sick else 3, 1)), 2)
        wbc = round(float(rng.normal(14 if sick else 7, 1)), 2)
        heat = round(float(rng.normal(39 if sick else 36.9, 0.3)), 1)
        gene = GENE["categories"][int(rng.integers(3))]
        if other:
            crp, wbc, heat = round(crp / 10, 3), round(wbc * 1000), round(heat * 1.8 + 32, 2)
        label = "sick" if sick else "well"
        rows.append(f"p{i},{label},{sick},{i}.npy,{crp},{wbc},{heat},{gene}")
    (root / "patients.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hospitals") / "one", ONE, other=False)


def source_of(root: Path) -> Source:
    return Source("folder", str(root), str(root.parent / "ontology.obo"))


@pytest.fixture(scope="module")
def run(one) -> Path:
    folder = one.parent / "run"
    (one.parent / "ontology.obo").write_text(ONTOLOGY, encoding="utf-8")
    train_run(load_study(source_of(one)), CONFIG, folder)
    return folder


def told(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[float, float, float]]:
    return {(row["patient"], row["class"]): (row["probability"], row["low"], row["high"]) for row in rows}


def close(found: dict, expected: dict) -> bool:
    """Equal but for the float32 rounding of a converted value, seen in rows of six decimals."""
    assert found.keys() == expected.keys()
    return all(found[key] == pytest.approx(expected[key], abs=1e-5) for key in expected)


def changed(task: dict[str, Any], name: str, **keys: Any) -> dict[str, Any]:
    """The task with other keys for the modality or the field of that name."""
    task = json.loads(json.dumps(task))
    for modality in task["modalities"]:
        for described in (modality, *modality.get("fields", [])):
            if described["name"] == name:
                described |= keys
    return task


def test_people_in_other_units_and_orders_get_the_same_probabilities(run, one, tmp_path):
    expected = told(predict_run(run, data=one))
    two = write_folder(tmp_path / "two", TWO, other=True)
    found = told(predict_run(run, data=two))
    assert close(found, expected)
    assert len({probability for probability, _, _ in expected.values()}) > PEOPLE / 2  # inputs matter
    wrong = write_folder(tmp_path / "wrong", ONE, other=True)  # the same numbers, declared wrongly
    assert not close(told(predict_run(run, data=wrong)), expected)


def test_an_explanation_shows_values_in_the_run_s_units(run, one, tmp_path):
    two = write_folder(tmp_path / "two", TWO, other=True)
    shown = []
    for data in (one, two):
        explanation, _ = explain_run(run, id="p1", data=data, draws=2, out=tmp_path / "page.html")
        rows = sorted(explanation.panels["labs"].cells, key=lambda row: row.field.name)
        shown.append([(row.field.unit, row.status, row.value) for row in rows])
    numbers = [pytest.approx(value) if isinstance(value, float) else value for _, _, value in shown[0]]
    assert [row[2] for row in shown[1]] == numbers
    assert [row[:2] for row in shown[1]] == [row[:2] for row in shown[0]]
    assert [row[:2] for row in shown[1]] == [("mg/l", "high"), ("", ""), ("°C", "high"), ("10^9/l", "")]


REFUSED = {
    "window": (changed(TWO, "ct", window=[-1.0, 0.4]), "'ct': window is [-1.0, 0.4], expected [-1000, 400]"),
    "molar mass": (changed(TWO, "crp", unit="mmol/l"), "field 'crp': unit is 'mmol/l', expected 'mg/l'"),
    "reference": (changed(TWO, "crp", reference=[0, 1]), "field 'crp': reference is [0, 1], expected [0, 5]"),
    "category": (changed(TWO, "gene", categories=["wild", "het", "hom", "?"]), "category '?' is unknown"),
    "class": (TWO | {"classes": ["well", "sick", "dead"]}, "class 'dead' is unknown to the run"),
}  # fmt: skip


@pytest.mark.parametrize(("task", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_is_refused_in_one_sentence(run, tmp_path, task, message):
    two = write_folder(tmp_path / "two", task, other=True)
    for ask in (
        lambda: predict_run(run, data=two),
        lambda: explain_run(run, data=two, id="p0", draws=2),
    ):
        with pytest.raises(DataError) as error:
            ask()
        assert str(error.value).startswith(f"{two}: ")
        assert message in str(error.value)


def test_what_another_folder_lacks_is_told(run, tmp_path):
    fields = [field for field in TWO_LABS if field["name"] != "wbc"]
    task = TWO | {
        "modalities": [{"name": "labs", "kind": "values", "fields": fields}],
        "ignore": ["ct", "labs.wbc"],
    }
    two = write_folder(tmp_path / "two", task, other=True)
    with pytest.warns(UserWarning, match=r"two: has no ct, labs\.wbc, which the run takes as not measured"):
        rows = predict_run(run, data=two)
    assert {row["missing"] for row in rows} == {"ct"}


@pytest.fixture
def own(run, one, tmp_path) -> Path:
    """The run and its folder, to be changed."""
    shutil.copytree(one, tmp_path / "one")
    shutil.copytree(run, tmp_path / "run")
    source = json.loads((tmp_path / "run" / "study.json").read_text(encoding="utf-8"))
    source["root"] = str(tmp_path / "one")
    shutil.copy(one.parent / "ontology.obo", tmp_path)
    (tmp_path / "run" / "study.json").write_text(json.dumps(source), encoding="utf-8")
    return tmp_path


def test_the_own_folder_whose_task_has_changed_since_is_read_as_it_was(own, run):
    before = told(predict_run(run))
    results = evaluate_run(run, draws=2, replicates=10)
    write_folder(own / "one", TWO, other=True)
    assert close(told(predict_run(own / "run")), before)
    study = load_run(own / "run").study()
    assert study.task == load_run(run).task
    again = evaluate_run(own / "run", draws=2, replicates=10)
    for name, metrics in results.values["RobustMDiff"].items():
        for metric, value in metrics.items():
            found = again.values["RobustMDiff"][name][metric]
            assert found == pytest.approx(value, abs=1e-5, nan_ok=True), (name, metric)


def write_strangers(root: Path) -> Path:
    """The people of TWO under other ids: nobody whom the run has seen."""
    write_folder(root, TWO, other=True)
    table = (root / "patients.csv").read_text(encoding="utf-8")
    (root / "patients.csv").write_text(table.replace("\np", "\nq"), encoding="utf-8")
    return root


def test_a_run_is_measured_on_people_it_has_never_seen(run, one, tmp_path):
    two, trained = write_strangers(tmp_path / "two"), load_run(run)
    study = unseen_study(trained, named_source(str(two), None))
    results = evaluate_run(trained, study=study, draws=2, replicates=10)
    assert results.masks.ids == tuple(f"q{i}" for i in range(PEOPLE))
    expected = {
        (row["patient"], row["class"]): row["probability"] for row in predict_run(run, data=one, draws=2)
    }
    found = results.probability["RobustMDiff"][COMPLETE]
    for i in range(PEOPLE):
        both = [expected[f"p{i}", name] for name in trained.task.classes]
        assert found[i].tolist() == pytest.approx(both, abs=1e-5)


def test_who_took_part_in_training_is_left_out_and_told(run, one, tmp_path):
    trained = load_run(run)
    split = load_split(run / "split.json")
    told = rf"one: {PEOPLE - len(split['test'])} of {PEOPLE} labelled patients took part in the training"
    with pytest.warns(UserWarning, match=told):
        study = unseen_study(trained, named_source(str(one), None))
    assert sorted(patient.id for patient in study.patients["test"]) == sorted(split["test"])

    two = write_strangers(tmp_path / "two")  # of whom one is another record of a person who trained
    table = two / "patients.csv"
    header, first, *rows = table.read_text(encoding="utf-8").splitlines()
    rows = [f"{header},group", f"{first},{split['train'][0]}", *(f"{row}," for row in rows)]
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="1 of 40 labelled patients took part .*: q0"):
        study = unseen_study(trained, named_source(str(two), None))
    assert len(study.patients["test"]) == PEOPLE - 1

    table.write_text("\n".join(rows[:2]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of 1 labelled patients is new to the run"):
        unseen_study(trained, named_source(str(two), None))


def test_people_are_noted_with_the_run(run, tmp_path):
    split = load_split(run / "split.json")
    seen = {id for name in ("train", "calibration") for id in split[name]}
    assert load_run(run).people() == seen  # here everybody is a person of their own
    earlier = tmp_path / "run"
    shutil.copytree(run, earlier)
    (earlier / "people.json").unlink()  # as runs of earlier versions
    assert load_run(earlier).people() == seen


def test_who_only_asks_reads_no_ontology(run, one, monkeypatch):
    def read(_):
        raise AssertionError("the ontology was read")

    monkeypatch.setattr(studies, "_ontology", read)
    id = load_split(run / "split.json")["test"][0]
    assert {row["patient"] for row in predict_run(run, ids=[id], draws=2)} == {id}
    evaluate_run(run, draws=2, replicates=10)


def test_one_patient_does_not_decode_a_collection(run, one, monkeypatch):
    decoded = []
    pixels = ImageFile.pixels
    monkeypatch.setattr(ImageFile, "pixels", lambda image: decoded.append(image.path) or pixels(image))
    id = load_split(run / "split.json")["test"][0]
    for data in (None, one):
        decoded.clear()
        assert {row["patient"] for row in predict_run(run, data=data, ids=[id], draws=2)} == {id}
        assert len(set(decoded)) <= LOOKED_AT + 1 < PEOPLE / 4  # whether all are dark is seen from a few
        assert str(one / f"{id[1:]}.npy") in decoded


def test_the_own_folder_whose_task_says_another_thing_since_is_refused(own):
    write_folder(own / "one", changed(TWO, "crp", unit="mmol/l"), other=True)
    for ask in (predict_run, explain_run, evaluate_run):
        with pytest.raises(DataError, match=r"one: modality 'labs', field 'crp': unit is 'mmol/l', expected"):
            ask(own / "run", draws=2)
    with pytest.raises(DataError, match="unit is 'mmol/l'"):  # as evaluating folds does
        evaluate_run(own / "run", study=load_study(source_of(own / "one")), draws=2)
