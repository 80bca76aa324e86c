"""The page in a headless Chromium: on a desktop and a phone, by keys alone, and as a screen reader has it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.serving.browser import CHROMIUM, Browser
from tests.serving.conftest import Running, base64_of, png

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
DESKTOP, PHONE = (1280, 800), (390, 844)
READY = "typeof task === 'object' && !form.hidden"
ANSWERED = (
    "document.getElementById('answer').getAttribute('aria-busy') === 'false' && "
    "document.getElementById('said').childElementCount > 0"
)
STATUS = "document.getElementById('status').textContent"
ERROR = "document.getElementById('error').hidden ? '' : document.getElementById('error').textContent"
MODEL = "document.getElementById('model').textContent"
CRP = "document.querySelector('[data-name=CRP]')"
ROWS = (
    "[...document.querySelectorAll('[aria-label=\"What each modality contributed\"] tbody tr')]"
    ".map((row) => [...row.children].map((cell) => cell.textContent))"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture
def browser(chromium) -> Browser:
    chromium.complaints.clear()
    return chromium


@pytest.fixture(scope="module")
def running(start) -> Iterator[Running]:
    running = start(patients=64)
    yield running
    logged = running.end()
    assert "cough" not in logged


@pytest.fixture
def page(browser, running) -> Browser:
    browser.visit(running.url, *DESKTOP)
    browser.until(READY)
    return browser


def fill(browser, tmp_path, crp="10"):
    scan = tmp_path / "white.png"
    scan.write_bytes(png())
    browser.choose("#modalities input[type=file]", scan)
    browser.value("document.querySelector('textarea').value = 'cough\\nfever'")
    browser.value(f"{CRP}.value = '{crp}'")


def change(browser, expression):
    browser.value(f"{expression}; form.dispatchEvent(new Event('input'))")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_patient_is_diagnosed_and_nothing_sticks_out(browser, running, tmp_path, size, dark):
    browser.visit(running.url, *size, dark=dark)
    browser.until(READY)
    fill(browser, tmp_path)
    browser.value("form.requestSubmit()")
    browser.until(ANSWERED)
    assert browser.value(STATUS) == "Most probable: healthy, 75 %. Seen: scan, note, labs."
    assert browser.value(ROWS) == [["scan", "", "0.0"], ["note", "", "0.0"], ["labs", "", "−25.0"]]
    said = browser.value("last")
    patient = {"scan": base64_of(png()), "note": "cough\nfever", "labs": {"CRP": 10}}
    assert said == httpx.post(f"{running.url}/explain", json=patient).json()
    width = browser.value("document.documentElement.scrollWidth")
    assert width <= browser.value("document.documentElement.clientWidth")
    colour = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(17, 22, 28)") == dark
    assert browser.value("document.querySelector('.picture').naturalWidth") == 4
    assert browser.complaints == []


def test_keys_alone_are_enough(page):
    focused = "document.activeElement.dataset.name ?? document.activeElement.id"
    page.press("Tab")
    assert page.value(focused) == "files"
    page.press("Tab", 3)  # scan, note, CRP
    assert page.value(focused) == "CRP"
    page.press("10")
    page.press("Enter")
    page.until(ANSWERED)
    page.until(focused, lambda id: id == "answered")
    assert page.value(STATUS) == "Most probable: healthy, 75 %. Seen: labs."
    page.press("Tab")  # the only switch that there is something to switch with
    page.press("Space")
    page.until(STATUS, lambda said: said.startswith("Nothing is known"))
    assert page.value("document.activeElement.checked") is False
    page.press("Space")
    page.until(STATUS, lambda said: said.endswith("Seen: labs."))
    assert page.complaints == []


def test_a_screen_reader_has_a_name_for_whatever_can_be_reached(page, tmp_path):
    fill(page, tmp_path)
    page.value("form.requestSubmit()")
    page.until(ANSWERED)
    controls = page.controls()
    assert all(name for _, name in controls), controls
    assert {
        ("button", "scan: an image"),
        ("textbox", "note: a text"),
        ("spinbutton", "CRP mg/L"),
        ("combobox", "sex"),
        ("switch", "scan"),
        ("switch", "labs"),
        ("button", "Diagnose"),
        ("combobox", "Class"),
    } <= {*controls}


def test_an_answer_follows_its_patient_or_goes(page, tmp_path):
    fill(page, tmp_path)
    page.value("form.requestSubmit()")
    page.until(ANSWERED)
    change(page, f"{CRP}.value = '30'")
    page.until(STATUS, lambda said: said.startswith("Most probable: ill, 75 %"))
    change(page, f"{CRP}.min = 31")  # what does not hold in the form is not asked
    assert page.until(ERROR) == "A value is not a number."
    assert page.value("document.getElementById('said').childElementCount") == 0
    page.value("form.reset()")
    page.until(STATUS, lambda said: said == "Nothing is known of this patient. Seen: nothing.")
    assert page.value(f"{CRP}.value") == ""


def test_a_switch_takes_a_modality_away_and_gives_it_back(page, tmp_path):
    fill(page, tmp_path)
    page.value("form.requestSubmit()")
    page.until(ANSWERED)
    page.value("boxes.get('labs').click()")
    page.until(STATUS, lambda said: said == "Most probable: healthy, 100 %. Seen: scan, note.")
    assert page.value(ROWS)[2] == ["labs", "switched off"]
    page.value("boxes.get('labs').click()")
    page.until(STATUS, lambda said: said == "Most probable: healthy, 75 %. Seen: scan, note, labs.")


ORDER = (
    "[...document.querySelectorAll('[aria-label=\"What to order next\"] tbody tr')]"
    ".map((row) => [row.className, row.children[0].textContent, row.children[2].textContent])"
)


def test_the_next_test_and_how_much_it_would_change(page, tmp_path):
    page.value("document.querySelector('textarea').value = 'cough'; form.requestSubmit()")
    page.until(ANSWERED)
    assert page.value(ORDER) == [["target", "scan", "30 %"], ["target", "labs", "10 %"]]
    bar = "document.querySelector('[aria-label=\"What to order next\"] .fill').style.width"
    assert float(page.value(bar).rstrip("%")) == pytest.approx(30)  # of all of it, not of the widest
    said = "document.getElementById('said').textContent"
    assert "No test would change" not in page.value(said)
    page.value("form.reset()")
    page.until(STATUS, lambda said: said.startswith("Nothing is known"))
    change(page, f"{CRP}.value = '10'")
    page.until(STATUS, lambda said: said.endswith("Seen: labs."))
    assert page.value(ORDER) == [["", "note", "0.4 %"]]
    assert "No test would change this diagnosis, as far as this model can tell." in page.value(said)
    assert "cannot tell what scan would change" in page.value(said)
    assert page.complaints == []


APART = (
    "[...document.querySelectorAll('.words mark, .words s')].map((each) => [each.tagName, each.textContent])"
)
SHOW = "[...document.querySelectorAll('#said button')].find((each) => each.textContent === 'Show')"


def test_without_a_run_the_page_says_what_pixels_and_words_need(page, tmp_path):
    fill(page, tmp_path)
    page.value("form.requestSubmit()")
    page.until(ANSWERED)
    assert "robustmdiff serve ARTEFACT --run RUN" in page.value("document.getElementById('said').textContent")
    assert page.value(f"{SHOW} === undefined")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_pixels_words_and_values_of_a_class_are_shown_where_there_is_a_run(browser, start, tmp_path, size):
    running = start(patients=64, beside="run")
    browser.visit(running.url, *size)
    browser.until(READY)
    fill(browser, tmp_path)
    browser.value("document.querySelector('textarea').value = 'cough fever'")
    browser.value("form.requestSubmit()")
    browser.until(ANSWERED)
    browser.value(f"{SHOW}.click()")
    assert browser.until(APART, lambda found: len(found) == 2) == [["MARK", "cough"], ["S", "fever"]]
    browser.until(
        "[...document.querySelectorAll('.pixels')].map((each) => each.naturalWidth)", lambda x: x == [4, 4]
    )
    values = browser.value("document.querySelector('[aria-label=\"Values of labs\"] tbody tr').textContent")
    assert values == "CRP+20.0"
    said = browser.value("document.getElementById('said').textContent")
    assert "for (orange) and against (blue) healthy: from 50 %" in said
    width = browser.value("document.documentElement.scrollWidth")
    assert width <= browser.value("document.documentElement.clientWidth")
    assert all(name for _, name in browser.controls())
    choice = "document.querySelector('[aria-label=\"Class of pixels, words and values\"]')"
    browser.value(f"{choice}.dispatchEvent(new Event('input'))")
    assert browser.value(APART) == []
    assert browser.complaints == []
    assert "cough" not in running.end()


def ask_for(name):
    """The button that makes a modality."""
    return f"[...document.querySelectorAll('#said button')].find((x) => x.textContent.endsWith('({name})'))"


FIGURES = "[...document.querySelectorAll('.draw')]"
DRAWN = "[...document.querySelectorAll('.draw img')].map((each) => [each.alt, each.naturalWidth])"
HOW_MADE = "document.querySelector('#said .synthetic')?.parentElement.textContent ?? ''"


def test_without_a_generator_the_page_says_what_it_needs(page):
    page.value("document.querySelector('textarea').value = 'cough'; form.requestSubmit()")
    page.until(ANSWERED)
    said = page.value("document.getElementById('said').textContent")
    assert "robustmdiff serve ARTEFACT --generator RUN" in said
    assert page.value(f"{ask_for('scan')} === undefined")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_is_missing_is_shown_as_sixteen_draws_that_say_they_are_synthetic(browser, start, size):
    running = start(patients=64, beside="generator")
    browser.visit(running.url, *size)
    browser.until(READY)
    browser.value("document.querySelector('textarea').value = 'cough'; form.requestSubmit()")
    browser.until(ANSWERED)
    assert browser.value(f"{ask_for('note')} === undefined")  # it is there
    assert browser.value(f"{ask_for('labs')} === undefined")  # nobody makes it
    browser.value(f"{ask_for('scan')}.click()")
    drawn = browser.until(DRAWN, lambda found: len(found) == 32 and all(width for _, width in found))
    assert drawn[:2] == [[f"synthetic scan, {side}, draw 1 of 16", 4] for side in ("left", "right")]
    marks = browser.value(f"{FIGURES}.map((each) => each.querySelector('.synthetic').offsetWidth)")
    assert len(marks) == 16
    assert min(marks) > 20
    assert browser.value(HOW_MADE) == (
        "synthetic scan, drawn from the prompts note, by MedM2G 0.1.0 (SHA-256 ffffffffffff): guidance 1, "
        "8 steps, seed 0."
    )
    assert "no word of it is known" in browser.value("document.getElementById('said').textContent")
    rows = browser.value(f"new Set({FIGURES}.map((each) => each.offsetTop)).size")
    assert rows == (4 if size == DESKTOP else 8)
    width = browser.value("document.documentElement.scrollWidth")
    assert width <= browser.value("document.documentElement.clientWidth")
    assert all(name for _, name in browser.controls())
    assert ("button", "What might it look like? (scan)") not in browser.controls()
    browser.value(f"{ask_for('scan')}.click()")  # 16 others
    browser.until(HOW_MADE, lambda said: said.endswith("seed 1."))
    assert browser.complaints == []
    assert "cough" not in running.end()


def test_a_text_that_is_switched_off_is_a_list_of_what_it_might_say(browser, start):
    running = start(patients=64, beside="generator")
    browser.visit(running.url, *DESKTOP)
    browser.until(READY)
    browser.value(f"document.querySelector('textarea').value = 'cough'; {CRP}.value = '10'")
    browser.value("form.requestSubmit()")
    browser.until(ANSWERED)
    browser.value("boxes.get('note').click()")
    browser.until(STATUS, lambda said: said.endswith("Seen: labs."))
    browser.value(f"{ask_for('note')}.click()")
    items = "[...document.querySelectorAll('#said ol li')].map((each) => each.textContent)"
    listed = browser.until(items, lambda found: len(found) == 16)
    assert (listed[0], listed[15]) == ("synthetic Cough 1.", "synthetic Cough 16.")
    assert "from the prompts labs" in browser.value(HOW_MADE)  # and not from the note, which is switched off
    change(browser, f"{CRP}.value = '11'")  # of another patient nothing is left
    browser.until(f"{items}.length", lambda n: n == 0)
    running.end()


def drop(browser, name, content, onto="document.body"):
    """As a hand does it; content in base64."""
    browser.value(
        f"""{{
        const held = new DataTransfer();
        const bytes = Uint8Array.from(atob('{content}'), (each) => each.charCodeAt(0));
        held.items.add(new File([bytes], '{name}'));
        {onto}.dispatchEvent(new DragEvent('drop', {{bubbles: true, cancelable: true, dataTransfer: held}}));
        }}"""
    )


def test_files_are_dropped(page):
    drop(page, "any.png", base64_of(png()))
    page.until("document.querySelector('.picture').naturalWidth", lambda width: width == 4)
    drop(page, "any.txt", base64_of(b"cough"), onto="document.querySelector('textarea')")
    page.until("document.querySelector('textarea').value", lambda text: text == "cough")
    patient = {"scan": base64_of(png(size=(6, 4))), "note": None, "labs": {"CRP": 12.5, "sex": "m"}}
    drop(page, "patient.json", base64_of(json.dumps(patient).encode()))
    page.until("document.querySelector('.picture').naturalWidth", lambda width: width == 6)
    assert page.value(f"[{CRP}.value, document.querySelector('select').value]") == ["12.5", "m"]
    assert page.value("document.querySelector('textarea').value") == ""
    for what in ({"x": 1}, {"note": 3}, {"labs": {"sex": "x"}}, {"labs": {"CRP": "y"}}, {"labs": {"Na": 1}}):
        drop(page, "patient.json", base64_of(json.dumps(what).encode()))
        page.until(ERROR, lambda said: said.startswith("patient.json: is no patient of this model"))
        page.value("withdraw('')")
    drop(page, "patient.json", base64_of(b"{"))
    assert page.until(ERROR) == "patient.json: is not JSON."


def test_what_the_server_refuses_is_said(page, tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(b"no picture")
    page.choose("#modalities input[type=file]", path)
    page.value("form.requestSubmit()")
    assert page.until(ERROR) == "scan: is not an image that can be read (PNG, JPEG, TIFF, DICOM)"


def test_where_a_token_is_asked_for_the_page_asks_for_it_and_forgets_it(browser, start):
    running = start(patients=64, token="correct-horse-battery")
    browser.visit(running.url, *DESKTOP)
    browser.until("typeof form === 'object' && !document.getElementById('door').hidden")
    browser.press("wrong")
    browser.press("Enter")
    browser.until(
        "document.getElementById('model').textContent", lambda said: "not one that is known" in said
    )
    browser.press("correct-horse-battery")
    browser.press("Enter")
    browser.until(READY)
    browser.value("form.requestSubmit()")
    browser.until(ANSWERED)
    assert browser.value("document.documentElement.outerHTML.includes('correct-horse')") is False
    assert browser.value("document.getElementById('token').value") == ""
    browser.visit(running.url, *DESKTOP)
    browser.until("typeof form === 'object' && !document.getElementById('door').hidden")
    running.end()
