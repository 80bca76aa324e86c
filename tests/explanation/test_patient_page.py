"""What the page of a patient says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.explanation.patient_page import _interval, explain_patient, render_patient_page
from robustmdiff.knowledge import Ontology, Term, concepts_of_task
from robustmdiff.knowledge.concepts import NOTHING_KNOWN
from robustmdiff.next_test import NextTest
from robustmdiff.training.notes import Note
from tests.explanation.page import Page
from tests.explanation.ward import NOTE, TASK


def test_what_a_panel_lacks_is_listed(explanation, model, patient, collator):
    assert explanation.panels["labs"].not_measured == ("age",)
    shown = Page(render_patient_page(explanation)).shown
    assert "3 of 4 measured, 2 out of range" in shown
    assert "Not measured: age" in shown
    full = replace(patient, modalities={"labs": {"CRP": 8.0, "sodium": 140.0, "sex": "male", "age": 61.0}})
    shown = Page(render_patient_page(explain_patient(model, full, collator, draws=4, steps=2))).shown
    assert "4 of 4 measured, 0 out of range" in shown
    assert "Not measured" not in shown
    assert all(f"{name} missing" in shown for name in ("xray", "ct", "mri", "note", "genes"))


def test_page_shows_what_was_found(explanation):
    page = Page(render_patient_page(explanation))
    for words in (
        "Patient p-7",
        "ward.csv:12",
        "genes missing",
        "Recorded diagnosis (not shown to the model): pneumonia",
        "vasculitis rare",
        "80 mg/L",
        "0 to 10",
        "8 draws",
        "seed 3",
        "runs/x/model",
        "not a medical device",
        "Knowledge consulted",
    ):
        assert words in page.shown


def test_channels_have_names(explanation):
    page = Page(render_patient_page(explanation))
    alts = [a["alt"] for a in page.all("img") if "heat map" not in a["alt"]]
    numbered = [f"ct, channel {i} of 3" for i in (1, 2, 3)]
    assert alts == ["xray", *numbered, "mri, T1w", "mri, <T2w>"]
    assert all(name in page.shown for name in ("T1w", "<T2w>", "channel 2 of 3"))
    assert "channel 1 of 1" not in page.shown


def test_the_interval_is_called_what_it_is(explanation):
    shown = Page(render_patient_page(explanation)).shown
    top = explanation.classes[0]
    assert f"(5 % to 95 % of the model's draws: {_interval(top)})" in shown
    assert "5 % to 95 % of the model's draws: what the missing modalities could still change." in shown
    assert "It is no confidence interval." in shown
    whole = replace(explanation, modalities=tuple(m for m in explanation.modalities if m.present))
    shown = Page(render_patient_page(whole)).shown
    assert "could still change" not in shown
    assert "scatter by themselves, as no modality is missing. It is no confidence interval" in shown


def test_the_report_is_whole(explanation):
    page = Page(render_patient_page(explanation))
    assert page.report == NOTE
    assert page.all("mark")


def test_nobody_gets_the_prevalences(model, patient, collator):
    nobody = replace(patient, modalities={"note": None})
    e = explain_patient(model, nobody, collator, draws=8)
    assert [c.probability for c in e.classes] == pytest.approx([0.6, 0.35, 0.05])
    assert all(c.low is None for c in e.classes)
    assert {t.modality for t in e.next_tests} == set(TASK.modality_names)
    assert (e.images, e.texts, e.panels, e.findings, e.concepts) == ((), (), {}, (), ())
    json.dumps(e.to_json())
    page = Page(render_patient_page(e))
    assert "Nothing is known of this patient." in page.shown
    assert "The answer is the prevalence of each class" in page.shown
    assert "draws:" not in page.shown  # no interval: there is nothing to be sure of
    assert "genes missing" in page.text
    assert "What each modality contributed" not in page.text
    assert not page.all("img")


def test_everything_there_leaves_nothing_to_order(model, patient, collator):
    whole = replace(patient, modalities={**patient.modalities, "genes": {"MBL2": "variant"}})
    page = Page(render_patient_page(explain_patient(model, whole, collator, draws=4, steps=2)))
    assert "nothing more to ask for" in page.text
    assert "missing: nothing was assumed" not in page.text


def test_empty_is_not_absent(model, collator):
    e = explain_patient(model, Patient("p", {"note": "", "labs": {}}), collator, draws=4, steps=2)
    page = Page(render_patient_page(e))
    assert "The text is there but empty." in page.text
    assert "0 of 4 measured" in page.shown
    assert "Not measured: CRP, sodium, sex, age" in page.shown
    assert e.present == ("note", "labs")


def test_what_the_model_did_not_read_is_struck_through(model, collator):
    text = "fever " * 50 + "opacity"
    page = Page(
        render_patient_page(explain_patient(model, Patient("p", {"note": text}), collator, draws=4, steps=2))
    )
    assert page.report == text
    assert [a for a in page.all("span") if a.get("class") == "unread"]
    assert "beyond the longest text" in page.text


def test_prediction_set_and_abstention(model, patient, collator):
    g = torch.Generator().manual_seed(0)
    p = torch.rand(150, 3, generator=g).softmax(1)
    label = nn.functional.one_hot(torch.arange(150) % 3, 3).float()
    presence = torch.tensor([[1, 1, 1, 1, 1, 0]]).bool().expand(150, -1)
    conformal = ConformalSets.fit(p, label, presence, 0.2)
    with torch.no_grad():
        own = model.observe(model.encode(collator([patient])))
    near = own + 0.01 * torch.randn(150, own.shape[1], generator=g)
    for shift, word in ((0.0, "no reason to abstain"), (50.0, "Abstain.")):
        abstention = Abstention.fit(near + shift, presence, near + shift, presence)
        e = explain_patient(
            model, patient, collator, conformal=conformal, abstention=abstention, draws=4, steps=2
        )
        page = Page(render_patient_page(e))
        assert word in page.text
        assert e.unlike_training == (shift > 0)
        words, people = conformal.group(presence[0], model.task.classes.index(e.target))
        assert words == "with this class and 5 modalities"
        assert people == label[:, model.task.classes.index(e.target)].sum()
        assert (e.prediction_set.level, e.prediction_set.group, e.prediction_set.patients) == (
            0.8,
            words,
            people,
        )
        said = f"{e.target} was calibrated on {people} people with this class and 5 modalities"
        assert said in " ".join(page.text.split())
        assert page.text.count("✓") == sum(c.in_set for c in e.classes) >= 1
    empty = replace(e, classes=tuple(replace(c, in_set=False) for c in e.classes))
    assert "no class fits" in Page(render_patient_page(empty)).text


def next_test(modality, gain, cost=1.0):
    return NextTest(modality, gain + 0.03, 0.1, 0.03, gain, cost, gain / cost)


def test_bars_of_next_tests_are_probabilities(explanation):
    """A bar is as long as its gain, whatever the other tests' are; bold is what is noticeable."""
    tests = (next_test("genes", 0.25), next_test("eeg", 0.012, cost=2.0), next_test("skin", 0.004))
    for shown in (tests, tests[1:]):
        page = Page(render_patient_page(replace(explanation, next_tests=shown)))
        found = [t["style"] for t in page.all("span") if t.get("class") == "fill"][-len(shown) :]
        assert found == [f"left:0;width:{width}%" for width in ("25.0", "1.2", "0.4")[-len(shown) :]]
        bold = [t for t in page.all("tr") if t.get("class") == "target"]
        assert len(bold) == len(shown)  # the explained class, and all tests but skin
        assert "No test would change" not in page.text
    assert "less the 3.0 % by which the model's draws scatter" in page.shown


@pytest.mark.parametrize(("gains", "said"), [
    ((0.0099, 0.0), True), ((0.0,), True), ((0.0099, 0.01), False), ((), False),
])  # fmt: skip
def test_no_test_would_change_this_where_no_gain_is_noticeable(explanation, gains, said):
    tests = tuple(next_test(f"test {i}", gain) for i, gain in enumerate(gains))
    page = Page(render_patient_page(replace(explanation, next_tests=tests)))
    assert ("No test would change this diagnosis" in page.text) == said


def test_a_modality_that_was_never_seen_with_these_is_not_called_present(explanation):
    page = Page(render_patient_page(replace(explanation, next_tests=())))
    assert "nothing more to ask for" not in page.text
    assert "The model cannot tell what genes would change: no training patient had it" in page.shown
    assert "cannot tell" not in Page(render_patient_page(explanation)).text


def test_notes_of_the_training_are_shown_with_n(model, patient, collator):
    notes = [
        Note("few", 3, "Fewer than 10 have 'gout' (3) & <co>."),
        Note("steps", 40, "There are 40 steps."),
    ]
    labs = replace(patient, modalities={"labs": patient.modalities["labs"]})
    e = explain_patient(model, labs, collator, draws=4, steps=2, notes=notes)
    assert e.to_json()["notes"] == [note._asdict() for note in notes]
    html = render_patient_page(e)
    shown = Page(html).shown
    assert "What to know about the training Fewer than 10 have 'gout' (3) & <co>. (n = 3)" in shown
    assert "There are 40 steps. (n = 40)" in shown
    assert "about the training" not in render_patient_page(replace(e, notes=()))


def test_no_knowledge_is_consulted_where_there_is_no_ontology(patient, collator):
    labs = replace(patient, modalities={"labs": patient.modalities["labs"]})
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=32, steps=2)
    terms = {"DOID:552": Term("DOID:552", "pneumonia", "disease")}
    for ontology, consulted in ((NOTHING_KNOWN, False), (Ontology(terms, {}, {}, {}).concepts(), True)):
        model = RobustMDiff(
            TASK, config, concepts_of_task(ontology, TASK.classes, TASK.findings), denoiser=True
        )
        e = explain_patient(model, labs, collator, draws=4, steps=2)
        assert bool(e.concepts) == consulted
        assert ("Knowledge consulted" in render_patient_page(e)) == consulted
        assert e.findings  # the task's own, with or without


def test_many_classes_are_cut_short(explanation):
    many = tuple(replace(explanation.classes[0], name=f"class {i}", probability=0.04) for i in range(20))
    page = Page(render_patient_page(replace(explanation, classes=many)))
    assert "class 14" in page.text
    assert "class 15" not in page.text
    assert "and 5 classes, none above 4.0 %" in page.text


def test_a_task_without_findings_and_with_many_labels(patient, collator):
    task = replace(TASK, findings=(), multilabel=True)
    concepts = concepts_of_task(NOTHING_KNOWN, task.classes, ())
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=32, steps=2)
    model = RobustMDiff(task, config, concepts, denoiser=True)
    labelled = replace(patient, labels={"pneumonia": True, "well": False})
    e = explain_patient(model, labelled, Collator(task, collator.tokenizer, 32), draws=4, steps=2)
    page = Page(render_patient_page(e))
    assert e.findings == ()
    assert "Findings" not in page.text
    assert {c.name: c.recorded for c in e.classes} == {"pneumonia": True, "well": False, "vasculitis": None}
    assert "Finding or disease" in page.text


def test_where_no_finding_is_labelled_the_page_says_what_speaks_for_each_class(patient, collator):
    task = replace(TASK, findings=())
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=32, steps=2)
    config = replace(config, class_evidence=True)
    model = RobustMDiff(task, config, concepts_of_task(NOTHING_KNOWN, task.classes, ()), denoiser=True)
    with torch.no_grad():
        model.log_tau.fill_(-0.7)
    own = Collator(task, collator.tokenizer, 32)
    e = explain_patient(model, patient, own, draws=4, steps=2)
    said = model.evidence_of_each(model.encode(own([patient])))[0]
    for c in e.classes:
        expected = dict(zip(task.modality_names, said[:, task.classes.index(c.name)].tolist(), strict=True))
        assert c.evidence == {name: expected[name] for name in e.present}
    assert e.to_json()["classes"][0]["evidence"] == e.classes[0].evidence
    assert e.findings == ()
    page = Page(render_patient_page(e))
    assert "What speaks for each class" in page.shown
    for c in e.classes:
        assert "".join(f"{x:+.1f}".replace("-", "−") for x in c.evidence.values()) in page.text
    nobody = explain_patient(model, replace(patient, modalities={}), own, draws=4)
    assert all(c.evidence == {} for c in nobody.classes)
    assert "speaks for each class" not in render_patient_page(nobody)
