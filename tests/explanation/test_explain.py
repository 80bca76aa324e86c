"""What an explanation holds, before it is put on a page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch import nn

from robustmdiff.data.patient import DataError, Patient
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.explanation.acquisition import rank_next_tests
from robustmdiff.explanation.explain import explain_patient
from robustmdiff.explanation.patient_page import render_patient_page
from robustmdiff.refusal import Refusal
from tests.explanation.ward import TASK


def test_explanation_is_complete(explanation, model):
    e = explanation
    assert (e.present, e.missing) == (("xray", "ct", "mri", "note", "labs"), ("genes",))
    assert sum(c.probability for c in e.classes) == pytest.approx(1, abs=1e-5)
    assert [c.probability for c in e.classes] == sorted((c.probability for c in e.classes), reverse=True)
    assert e.target == e.classes[0].name
    assert all(0 <= c.low <= c.high <= 1 for c in e.classes)
    assert {c.name for c in e.classes if c.rare} == {"vasculitis"}
    assert {c.name: c.recorded for c in e.classes} == {"well": False, "pneumonia": True, "vasculitis": False}
    contributions = [m.contribution for m in e.modalities if m.present]
    assert sum(contributions) == pytest.approx(e.everything - e.nothing, abs=1e-5)
    assert e.everything == pytest.approx(e.classes[0].probability, abs=1e-5)
    assert sum(m.gradient_share for m in e.modalities if m.present) == pytest.approx(1)
    attributed = sum(m.attributed for m in e.modalities if m.present)
    assert e.direct - e.baseline - attributed == pytest.approx(e.completeness_error, abs=1e-9)
    assert {f.name for f in e.findings} == {"fever", "opacity"}
    assert set(e.findings[0].evidence) == set(e.present)
    assert all(c.evidence == {} for c in e.classes)  # it is read for findings
    assert {c.name for c in e.concepts} == set(TASK.classes + TASK.findings)
    assert sum(c.weight for c in e.concepts) == pytest.approx(1, abs=1e-5)
    assert [t.modality for t in e.next_tests] == ["genes"]
    assert (e.prediction_set, e.unlike_training) == (None, None)


def test_cells_out_of_range_come_first(explanation):
    cells = explanation.panels["labs"].cells
    assert {(c.field.name, c.status) for c in cells[:2]} == {("CRP", "high"), ("sodium", "low")}
    assert {(c.field.name, c.status) for c in cells[2:]} == {("sex", "")}


def test_another_class_can_be_explained(explanation, model, patient, collator):
    other = explanation.classes[-1].name
    found = explain_patient(model, patient, collator, draws=8, seed=3, steps=8, target=other)
    assert found.target == other
    assert found.everything == pytest.approx(explanation.classes[-1].probability, abs=1e-5)
    with pytest.raises(ValueError, match="target is 'gout', expected one of well, pneumonia, vasculitis"):
        explain_patient(model, patient, collator, target="gout")


def test_json_says_the_same(explanation, model, patient, collator):
    found = explanation.to_json()
    assert json.loads(json.dumps(found)) == found
    assert found["classes"][0]["probability"] == explanation.classes[0].probability
    assert found["missing"] == ["genes"]
    assert np.array(found["images"][1]["heat"]).shape == (3, 24, 16)
    assert [image["channels"] for image in found["images"]] == [[], [], ["T1w", "<T2w>"]]
    assert found["panels"]["labs"]["not_measured"] == ["age"]
    again = explain_patient(model, patient, collator, draws=8, seed=3, steps=8, checkpoint="runs/x/model")
    assert again.to_json() == found


def test_another_model(patient, collator):
    with pytest.raises(TypeError, match="model is a Identity, expected RobustMDiff"):
        explain_patient(nn.Identity(), patient, collator)


def test_a_patient_that_the_task_does_not_know(model, collator):
    with pytest.raises(DataError, match="ecg"):
        explain_patient(model, Patient("p", {"ecg": "x"}), collator)


def test_a_model_that_forecasts_nothing_is_explained_without_tests(model, patient, collator, concept_table):
    alone = RobustMDiff(TASK, model.config, concept_table(TASK)).eval()
    e = explain_patient(alone, patient, collator, draws=4, steps=2)
    assert (e.answer, e.next_tests) == ("head", None)
    assert "forecasts nothing" in render_patient_page(e)
    with pytest.raises(Refusal, match=r"forecasts nothing, expected one with a second stage"):
        rank_next_tests(alone, alone.encode(collator([patient])))
