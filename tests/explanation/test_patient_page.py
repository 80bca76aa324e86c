from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.task import Field, Modality, Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.explanation.patient_page import (
    _overlay,
    _percent,
    _points,
    explain_patient,
    render_patient_page,
)
from robustmdiff.knowledge.concepts import ConceptTable

TASK = Task(
    (
        Modality("xray", "image", shape=(1, 16, 24), window=(0.0, 1.0)),
        Modality("ct", "image", shape=(3, 24, 16), window=(-1000.0, 500.0), cost=6.0),
        Modality("note", "text"),
        Modality(
            "labs",
            "values",
            fields=(
                Field("CRP", "mg/L", (0.0, 10.0)),
                Field("sodium", "mmol/L", (135.0, 145.0)),
                Field("sex", categories=("female", "male")),
                Field("age", "years"),
            ),
        ),
        Modality("genes", "values", fields=(Field("MBL2", categories=("wild", "variant")),), cost=8.0),
    ),
    ("well", "pneumonia", "vasculitis"),
    (0.6, 0.35, 0.05),
    rare=("vasculitis",),
    findings=("fever", "opacity"),
)
NOTE = "Fever since Monday;\n\n  no opacity  in the left lung."


@pytest.fixture(scope="module")
def collator():
    return Collator(TASK, train_tokenizer([NOTE, "opacity of the lung, fever"], vocab_size=60), max_tokens=32)


@pytest.fixture(scope="module")
def model(collator):
    torch.manual_seed(0)
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(
        d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=32, width=16, depth=1, steps=2
    )
    names = TASK.classes + TASK.findings
    concepts = ConceptTable(
        id=names,
        name=names,
        definition=("",) * 5,
        kind=("disease",) * 3 + ("finding",) * 2,
        prevalence=np.full(5, 0.2, np.float32),
        source=np.array([1, 2, 3]),
        target=np.array([3, 4, 1]),
        relation=np.array([0, 0, 1]),
        relations=("has_phenotype", "phenotype_of"),
        frequency=np.array([[0.1, 0.1], [0.8, 0.2], [0.5, 0.9]], np.float32),
    )
    model = RobustMDiff(TASK, config, concepts)
    nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture(scope="module")
def patient():
    g = torch.Generator().manual_seed(0)
    return Patient(
        "p-7",
        {
            "xray": torch.rand(1, 16, 24, generator=g),
            "ct": 300 * torch.randn(3, 24, 16, generator=g),
            "note": NOTE,
            "labs": {"CRP": 80.0, "sodium": 131.0, "sex": "female", "age": 61.0},
        },
        labels={"pneumonia": True},
        source="ward.csv:12",
        age=61.0,
    )


@pytest.fixture(scope="module")
def explanation(model, patient, collator):
    return explain_patient(model, patient, collator, draws=8, seed=3, steps=8, checkpoint="runs/x/model")


class Page(HTMLParser):
    """What a reader of the HTML needs to know: tags with attributes, nesting, text by class."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.report, self.text = [], [], "", ""
        self.feed(html)
        assert self.open == [], "unclosed tags"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not any(tag in ("style", "title") for tag, _ in self.open):
            self.text += data
        if ("p", "report") in self.open:
            self.report += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_explanation_is_complete(explanation, model):
    e = explanation
    assert (e.present, e.missing) == (("xray", "ct", "note", "labs"), ("genes",))
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
    assert {c.name for c in e.concepts} == set(TASK.classes + TASK.findings)
    assert sum(c.weight for c in e.concepts) == pytest.approx(1, abs=1e-5)
    assert [t.modality for t in e.next_tests] == ["genes"]
    assert (e.prediction_set, e.unlike_training) == (None, None)


def test_cells_out_of_range_come_first(explanation):
    cells = explanation.panels["labs"]
    assert {(c.field.name, c.status) for c in cells[:2]} == {("CRP", "high"), ("sodium", "low")}
    assert {(c.field.name, c.status) for c in cells[2:]} == {("sex", ""), ("age", "")}


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
    again = explain_patient(model, patient, collator, draws=8, seed=3, steps=8, checkpoint="runs/x/model")
    assert again.to_json() == found


def test_page_stands_alone_and_is_accessible(explanation):
    page = Page(render_patient_page(explanation))
    assert not page.all("script")
    assert not page.all("link")
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert not [a for _, a in page.tags if a.get("href", "").startswith("http")]
    alts = [a["alt"] for a in page.all("img")]
    assert len(alts) == len(set(alts)) == 2 * (1 + 3)
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_page_shows_what_was_found(explanation):
    page = Page(render_patient_page(explanation))
    shown = " ".join(page.text.split())
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
        "1. genes",
        "Knowledge consulted",
    ):
        assert words in shown


def test_the_report_is_whole(explanation):
    page = Page(render_patient_page(explanation))
    assert page.report == NOTE
    assert page.all("mark")


def test_pictures_keep_their_size(explanation):
    from PIL import Image

    sources = [a["src"].split(",")[1] for a in Page(render_patient_page(explanation)).all("img")]
    images = [Image.open(io.BytesIO(base64.b64decode(s))) for s in sources]
    assert [i.size for i in images] == [(24, 16)] * 2 + [(16, 24)] * 6
    plain = np.asarray(images[0]).astype(float) / 255
    pixels = explanation.images[0].pixels[0].numpy()
    np.testing.assert_allclose(plain, np.repeat(pixels[..., None], 3, 2), atol=0.5 / 255 + 1e-6)


def test_heat_goes_orange_for_and_blue_against():
    grey = np.full((1, 3, 3), 0.5)
    over = _overlay(grey, np.array([[1.0, 0.0, -1.0]]))
    red, blue = over[0, :, 0], over[0, :, 2]
    assert red[0] > 0.7 > 0.2 > blue[0]
    assert blue[2] > 0.6 > 0.2 > red[2]
    np.testing.assert_array_equal(over[0, 1], grey[0, 1])


def test_text_from_data_is_escaped(model, collator):
    """Escaping is Jinja's; that it is switched on, everywhere, is ours."""
    evil = "<script>alert('opacity')</script> & \"fever\" <b onmouseover=x>"
    patient = Patient(evil, {"note": evil}, source=evil, site=evil)
    html = render_patient_page(explain_patient(model, patient, collator, draws=4, steps=2, checkpoint=evil))
    page = Page(html)
    assert "<script" not in html
    assert not page.all("script")
    assert not page.all("b")
    assert page.report == evil
    assert page.text.count(evil) >= 4  # title in the head is not counted


def test_nobody_gets_the_prevalences(model, patient, collator):
    nobody = replace(patient, modalities={"note": None})
    e = explain_patient(model, nobody, collator, draws=8)
    assert [c.probability for c in e.classes] == pytest.approx([0.6, 0.35, 0.05])
    assert all(c.low is None for c in e.classes)
    assert {t.modality for t in e.next_tests} == set(TASK.modality_names)
    assert (e.images, e.texts, e.panels, e.findings, e.concepts) == ((), (), {}, (), ())
    json.dumps(e.to_json())
    page = Page(render_patient_page(e))
    assert "Nothing was observed of this patient." in page.text
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
    assert "0 measured" in page.text
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
    label = nn.functional.one_hot(p.argmax(1), 3).float()
    presence = torch.tensor([[1, 1, 1, 1, 0]]).bool().expand(150, -1)
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
        assert (e.prediction_set.level, e.prediction_set.group, e.prediction_set.patients) == (
            0.8,
            "11110",
            150,
        )
        assert "calibrated on 150 patients with the same modalities" in " ".join(page.text.split())
        assert page.text.count("✓") == sum(c.in_set for c in e.classes) >= 1
    empty = replace(e, classes=tuple(replace(c, in_set=False) for c in e.classes))
    assert "no class fits" in Page(render_patient_page(empty)).text


def test_tests_that_promise_nothing_are_not_recommended(explanation):
    for value, said in ((0.0, True), (0.1, False)):
        tests = tuple(replace(t, value=value) for t in explanation.next_tests)
        page = Page(render_patient_page(replace(explanation, next_tests=tests)))
        assert ("the model cannot tell which would help" in page.text) == said


def test_many_classes_are_cut_short(explanation):
    many = tuple(replace(explanation.classes[0], name=f"class {i}", probability=0.04) for i in range(20))
    page = Page(render_patient_page(replace(explanation, classes=many)))
    assert "class 14" in page.text
    assert "class 15" not in page.text
    assert "and 5 classes, none above 4.0 %" in page.text


def test_a_task_without_findings_and_with_many_labels(patient, collator):
    task = replace(TASK, findings=(), multilabel=True)
    concepts = ConceptTable(
        id=("a",),
        name=("pneumonia",),
        definition=("",),
        kind=("disease",),
        prevalence=np.array([np.nan], np.float32),
        source=np.zeros(0, np.int64),
        target=np.zeros(0, np.int64),
        relation=np.zeros(0, np.int64),
        relations=("is_a",),
        frequency=np.zeros((1, 0), np.float32),
    )
    vocabulary = collator.tokenizer.get_vocab_size()
    config = ModelConfig(d_h=16, layers=1, heads=2, patch=8, vocabulary=vocabulary, max_tokens=32, steps=2)
    model = RobustMDiff(task, config, concepts)
    labelled = replace(patient, labels={"pneumonia": True, "well": False})
    e = explain_patient(model, labelled, Collator(task, collator.tokenizer, 32), draws=4, steps=2)
    page = Page(render_patient_page(e))
    assert e.findings == ()
    assert {c.name: c.recorded for c in e.classes} == {"pneumonia": True, "well": False, "vasculitis": None}
    assert "Finding or disease" in page.text


def test_another_model(patient, collator):
    with pytest.raises(TypeError, match="model is a Identity, expected RobustMDiff"):
        explain_patient(nn.Identity(), patient, collator)


def test_a_patient_that_the_task_does_not_know(model, collator):
    with pytest.raises(DataError, match="ecg"):
        explain_patient(model, Patient("p", {"ecg": "x"}), collator)


@pytest.mark.parametrize(("p", "shown"), [
    (0.0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.5, "50 %"), (1.0, "100 %"),
])  # fmt: skip
def test_percent(p, shown):
    assert _percent(p) == shown


@pytest.mark.parametrize(("x", "shown"), [(0.1234, "+12.3"), (-0.5, "−50.0"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_points(x, shown):
    assert _points(x) == shown


def test_a_long_class_name_may_break_after_a_slash_and_is_still_escaped():
    from robustmdiff.explanation.patient_page import _breakable

    assert _breakable("Pneumonia/Viral/<b>") == "Pneumonia/<wbr>Viral/<wbr>&lt;b&gt;"
