"""The page at /, the task that its form is made of, and the contributions that it shows."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest

from robustmdiff.data.patient import Patient
from robustmdiff.refusal import Refusal
from robustmdiff.serving.contributions import contributions, under_every_subset
from robustmdiff.serving.tokens import Tokens
from tests.serving.conftest import FULL, TASK, TEXT, artefact, base64_of, engine, house, png
from tests.serving.test_predict import PATIENT, sentence


def test_the_page_may_load_its_own_script_and_style_and_nothing_else(served):
    response = served.client.get("/")
    policy = response.headers["content-security-policy"]
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for element in ("script", "style"):
        (inside,) = re.findall(f"<{element}[^>]*>(.*?)</{element}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://|innerHTML|\son\w+=|\sstyle=|Storage|cookie", response.text)


def test_the_page_is_for_anyone_and_the_task_for_who_has_a_token(tmp_path):
    for served in house(tmp_path, tokens=Tokens({"ward-3": "correct-horse-battery"})):
        assert served.client.get("/").status_code == 200
        assert served.client.get("/task").status_code == 401
        assert served.client.post("/explain", json={}).status_code == 401
        said = served.client.get("/task", headers={"Authorization": "Bearer correct-horse-battery"}).json()
        assert said["version"] == served.served[0].version


def test_the_task_says_what_a_form_needs_and_no_encoder(served):
    said = served.client.get("/task").json()
    assert [(each["name"], each["kind"]) for each in said["modalities"]] == [
        ("scan", "image"),
        ("note", "text"),
        ("labs", "values"),
    ]
    crp, sex = said["modalities"][2]["fields"]
    assert (crp["name"], crp["unit"], sex["categories"]) == ("CRP", "mg/L", ["f", "m"])
    assert said["prevalence"] == {"healthy": 0.9, "ill": 0.1}
    assert "encoder" not in str(said)


def together(arrays):
    """Ill as far as CRP and brightness agree: neither says anything alone; the note adds a tenth."""
    here = {name: arrays[f"{name}.at"] >= 0 for name in TASK.modality_names}
    crp = np.where(here["labs"], arrays["labs.value"][:, 0][arrays["labs.at"]], 0) / FULL
    light = np.where(here["scan"], arrays["scan.pixels"].mean((1, 2, 3))[arrays["scan.at"]], 0)
    ill = (crp * light + 0.1 * here["note"]).astype(np.float32)
    p = np.stack([1 - ill, ill], axis=1)
    return engine(arrays) | {"probability": p}


def test_what_two_modalities_say_together_they_share(tmp_path):
    calls = []

    def counted(arrays):
        calls.append({name: len(x) for name, x in arrays.items()})
        return together(arrays)

    for served in house(tmp_path, counted):
        calls.clear()
        said = served.client.post("/explain", json=PATIENT).json()  # CRP 10 of 40, a white scan, a note
        assert [calls[0][name] for name in ("scan.at", "scan.pixels", "note.lengths")] == [8, 1, 1]
        assert len(calls) == 1
        assert said.pop("nothing") == {"healthy": 1.0, "ill": 0.0}
        contribution = said.pop("contribution")
        assert {name: x["ill"] for name, x in contribution.items()} == pytest.approx(
            {"scan": 0.125, "note": 0.1, "labs": 0.125}
        )
        assert contribution["scan"]["healthy"] == pytest.approx(-0.125)
        assert said.pop("next_tests") == []
        assert said == served.client.post("/predict", json=PATIENT).json()


def test_what_is_missing_contributes_nothing_and_of_nobody_nothing_is_said(served):
    said = served.client.post("/explain", json={"labs": {"CRP": 10}}).json()
    assert said["contribution"]["labs"]["ill"] == pytest.approx(0.25)
    assert list(said["contribution"]) == ["labs"]
    said = served.client.post("/explain", json={}).json()
    assert (said["contribution"], said["nothing_known"]) == ({}, True)
    assert said["nothing"] == said["probability"]


def test_more_subsets_than_a_call_takes_are_not_asked_for(tmp_path):
    for served in house(tmp_path, patients=4):
        said = served.client.post("/explain", json=PATIENT).json()
        assert said["contribution"] is None
        assert said["probability"]["ill"] == pytest.approx(0.25)
        two = {name: PATIENT[name] for name in ("scan", "labs")}
        assert served.client.post("/explain", json=two).json()["contribution"] is not None


def test_the_next_test_is_one_that_training_patients_had_together_with_what_is_there(served):
    note, labs = (
        served.client.post("/explain", json=of).json()["next_tests"]
        for of in ({"note": "cough"}, {"labs": {"CRP": 1}})
    )
    assert [(t["modality"], t["noticeable"], t["usual_change"]) for t in note] == [
        ("scan", True, None),
        ("labs", True, None),
    ]
    assert [t["gain"] for t in note] == pytest.approx([0.3, 0.1])
    assert note[0]["entropy_reduction"] == pytest.approx(0.6)
    assert [(t["modality"], t["noticeable"], t["usual_change"]) for t in labs] == [("note", False, 0.05)]
    both = {name: PATIENT[name] for name in ("scan", "note")}
    assert served.client.post("/explain", json=both).json()["next_tests"] == []


def test_a_model_that_cannot_say_what_a_test_would_change(tmp_path):
    own = artefact()
    own.manifest = replace(own.manifest, together=())
    assert own.everything(2) == {}
    with pytest.raises(Refusal, match="next_test: the model makes no draws, or an earlier version"):
        own.next_test(Patient("", {}))
    for served in house(tmp_path, lambda arrays: engine({"view": np.ones((1, 3), bool)} | arrays)):
        served.served[0].artefact.manifest = own.manifest
        said = served.client.post("/explain", json=PATIENT).json()
        assert said["next_tests"] is None
        assert said["contribution"] is not None


def test_it_is_guarded_and_recorded_as_predict_is(served):
    said = sentence(served.client.post("/explain", json={"scan": base64_of(TEXT.encode())}), 422)
    assert "scan: is not an image" in said
    served.client.post("/explain", json=PATIENT)
    assert [(r["route"], r["outcome"]) for r in served.records] == [("/explain", 422), ("/explain", 200)]


def test_every_subset_of_what_a_patient_has_is_a_patient_of_the_artefact():
    from robustmdiff.runtime.inputs import feed

    own = artefact(together)
    whole = {"scan": np.ones((1, 4, 4), np.float32), "labs": {"CRP": 10.0}}
    arrays = under_every_subset(feed(own.collator([Patient("", whole)]), own.task), ["scan", "labs"])
    said = own.engine(arrays | own.everything(4) | own.noise)["probability"]
    subsets = [[], ["scan"], ["labs"], ["scan", "labs"]]
    for p, names in zip(said, subsets, strict=True):
        alone = own.diagnose(Patient("", {name: whole[name] for name in names}))
        assert p.tolist() == [*alone.probability.values()]
    told = contributions(said, ["scan", "labs"], own.task)
    assert told["nothing"]["ill"] == 0
    total = sum(each["ill"] for each in told["contribution"].values())
    assert total == pytest.approx(said[-1, 1] - said[0, 1])


def test_a_scan_is_read_from_a_file_as_the_page_sends_it(served):
    files = {
        "scan": ("scan", png(), "image/png"),
        "note": ("note", b"cough\nfever"),
        "labs": ("labs", b'{"CRP":10}'),
    }
    response = served.client.post("/explain", files=files)
    assert response.json()["contribution"]["labs"]["ill"] == pytest.approx(0.25)
