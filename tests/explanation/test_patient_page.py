from __future__ import annotations

import base64
import io
import json
import re
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
from robustmdiff.explanation.acquisition import NextTest
from robustmdiff.explanation.patient_page import (
    AGAINST,
    FOR,
    _interval,
    _overlay,
    _percent,
    _points,
    explain_patient,
    render_patient_page,
)
from robustmdiff.knowledge import Ontology, Term, concepts_of_task
from robustmdiff.knowledge.concepts import NOTHING_KNOWN, ConceptTable
from robustmdiff.training.notes import Note

TASK = Task(
    (
        Modality("xray", "image", shape=(1, 16, 24), window=(0.0, 1.0)),
        Modality("ct", "image", shape=(3, 24, 16), window=(-1000.0, 500.0), cost=6.0),
        Modality("mri", "image", shape=(2, 16, 16), channels=("T1w", "<T2w>"), cost=10.0),
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
            "mri": torch.rand(2, 16, 16, generator=g),
            "note": NOTE,
            "labs": {"CRP": 80.0, "sodium": 131.0, "sex": "female"},
        },
        labels={"pneumonia": True},
        source="ward.csv:12",
        age=61.0,
    )


@pytest.fixture(scope="module")
def explanation(model, patient, collator):
    return explain_patient(model, patient, collator, draws=8, seed=3, steps=8, checkpoint="runs/x/model")


class Page(HTMLParser):
    """What a reader of the HTML needs to know: tags with attributes, nesting, text by class, what each table
    lies in."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.report, self.text, self.boxes = [], [], "", "", []
        self.feed(html)
        assert self.open == [], "unclosed tags"

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.boxes.append(self.open[-1])
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

    @property
    def shown(self):
        return " ".join(self.text.split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


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
    assert {c.name for c in e.concepts} == set(TASK.classes + TASK.findings)
    assert sum(c.weight for c in e.concepts) == pytest.approx(1, abs=1e-5)
    assert [t.modality for t in e.next_tests] == ["genes"]
    assert (e.prediction_set, e.unlike_training) == (None, None)


def test_cells_out_of_range_come_first(explanation):
    cells = explanation.panels["labs"].cells
    assert {(c.field.name, c.status) for c in cells[:2]} == {("CRP", "high"), ("sodium", "low")}
    assert {(c.field.name, c.status) for c in cells[2:]} == {("sex", "")}


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


def test_page_stands_alone_and_is_accessible(explanation):
    page = Page(render_patient_page(explanation))
    assert not page.all("script")
    assert not page.all("link")
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert not [a for _, a in page.tags if a.get("href", "").startswith("http")]
    alts = [a["alt"] for a in page.all("img")]
    assert len(alts) == len(set(alts)) == 2 * (1 + 3 + 2)
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


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


def test_pictures_keep_their_size(explanation):
    from PIL import Image

    sources = [a["src"].split(",")[1] for a in Page(render_patient_page(explanation)).all("img")]
    images = [Image.open(io.BytesIO(base64.b64decode(s))) for s in sources]
    assert [i.size for i in images] == [(24, 16)] * 2 + [(16, 24)] * 6 + [(16, 16)] * 4
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
    assert "Nothing is known of this patient." in page.shown
    assert "The answer is the prevalence of each class among the training patients" in page.shown
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
    label = nn.functional.one_hot(p.argmax(1), 3).float()
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
        assert (e.prediction_set.level, e.prediction_set.group, e.prediction_set.patients) == (
            0.8,
            "111110",
            150,
        )
        assert "calibrated on 150 patients with the same modalities" in " ".join(page.text.split())
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
        model = RobustMDiff(TASK, config, concepts_of_task(ontology, TASK.classes, TASK.findings))
        e = explain_patient(model, labs, collator, draws=4, steps=2)
        assert bool(e.concepts) == consulted
        assert ("Knowledge consulted" in render_patient_page(e)) == consulted
        assert e.findings  # the task's own, with or without


def test_it_can_be_read_on_a_phone(explanation):
    """360 px wide: 8 px of margin, a border and 12 px of padding on either side leave 318."""
    html = render_patient_page(explanation)
    page = Page(html)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.boxes) == 6
    assert set(page.boxes) == {("div", "scroll")}
    boxes = [box for box in page.all("div") if box.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)  # for the keyboard
    css = html[html.index("<style>") : html.index("</style>")]
    assert ".scroll { overflow-x: auto; }" in css
    assert "overflow-wrap: anywhere" in css[css.index("body {") : css.index("main {")]
    widths = [int(px) for px in re.findall(r"(?<!max-)width: (\d+)px", css)]
    assert 0 < max(widths) <= 318
    nowrap = re.findall(r"([^{}]*)\{[^}]*white-space: nowrap", css)
    assert [selector.strip() for selector in nowrap] == ["td.n, th.n"]  # in tables alone


def luminance(rgb):
    """Of sRGB, 0 to 1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colour(hexadecimal):
    digits = hexadecimal if len(hexadecimal) == 6 else "".join(2 * c for c in hexadecimal)
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def test_text_can_be_read_by_day_and_night(explanation):
    """A contrast of 4.5 (WCAG 2.2, AA) for every text on every ground, in both palettes."""
    html = render_patient_page(explanation)
    light, dark = re.findall(r":root \{([^}]*)\}", html)
    read = [dict(re.findall(r"--(\w+): #(\w+);", palette)) for palette in (light, dark)]
    assert read[0].keys() == read[1].keys()
    for palette in read:
        of = {name: colour(value) for name, value in palette.items()}
        marked = [0.6 * np.array(rgb) / 255 + 0.4 * of["card"] for rgb in (FOR, AGAINST)]
        pairs = [("ink", of["alert"]), ("card", of["bar"]), *(("ink", ground) for ground in marked)]
        pairs += [(text, of[ground]) for text in ("ink", "soft") for ground in ("card", "wash")]
        for text, ground in pairs:
            low, high = sorted((luminance(of[text]), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


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
