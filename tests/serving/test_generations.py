"""What a missing modality might look like: by whom the server was given to make it, guarded as every question
is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from robustmdiff.serving.tokens import Tokens
from tests.serving.conftest import NAME, TEXT, Generate, base64_of, house, png
from tests.serving.test_predict import PATIENT, sentence

ASKED = "/generate?to=scan"
NOTE = {"note": "cough"}


@pytest.fixture
def generate():
    return Generate()


@pytest.fixture
def making(tmp_path, generate):
    yield from house(tmp_path, generate=generate)


def test_it_makes_what_is_asked_for_of_the_patient_that_came(making, generate):
    said = making.client.post(f"{ASKED}&draws=3&guidance=2.5&seed=7", json=NOTE).json()
    ((patient, *how),) = generate.calls
    assert dict(patient.modalities) == NOTE
    assert how == [["scan"], 3, 2.5, 7]
    assert (said["model"], said["version"]) == ("ward", making.served[0].version)
    assert said["synthetic"] is True
    assert said["how"] == {"scan": "drawn from the prompts note"}
    assert [len(draw) for draw in said["images"]["scan"]] == [2, 2, 2]
    assert said["images"]["scan"][0][0]["picture"] == "data:image/png;base64," + base64_of(png(7))
    assert (said["provenance"]["seed"], said["provenance"]["given"]) == (7, ["note"])
    assert making.client.get("/task").json()["generates"] == ["scan", "note"]
    assert [(r["route"], r["outcome"]) for r in making.records] == [("/generate", 200)]


def test_unless_asked_otherwise_there_are_sixteen_as_learned_of_seed_0(making, generate):
    said = making.client.post("/generate?to=note,scan", files={"note": ("note", b"cough")}).json()
    assert generate.calls[0][1:] == (["note", "scan"], 16, 1.0, 0)
    assert len(said["images"]["scan"]) == len(said["texts"]["note"]) == 16


def test_without_a_generator_it_says_what_is_needed_before_the_patient_is_decoded(served):
    expected = "synthetic images and texts need torch, expected a server started with --generator"
    assert sentence(served.client.post(ASKED, json=NOTE), 404) == expected
    assert sentence(served.client.post(ASKED, content=b"no patient"), 404) == expected
    assert served.client.get("/task").json()["generates"] == []
    assert [record["outcome"] for record in served.records] == [404, 404]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "expected to=SOME of scan, note"),
        ("?to=", "expected to=SOME of scan, note"),
        ("?to=labs", "expected to=SOME of scan, note"),  # it has no flow
        ("?to=plague", "expected to=SOME of scan, note"),
        ("?to=scan,scan", "expected to=SOME of scan, note"),
        ("?to=scan&draws=0", "expected 1 to 16"),
        ("?to=scan&draws=17", "expected 1 to 16"),
        ("?to=scan&draws=-1", "draws is not a number"),
        ("?to=scan&draws=1.5", "expected a whole number"),
        ("?to=scan&draws=1_0", "draws is not a number"),
        ("?to=scan&draws=", "draws is not a number"),
        ("?to=scan&guidance=-0.1", "from 0 to below 100"),
        ("?to=scan&guidance=100", "from 0 to below 100"),
        ("?to=scan&guidance=1e999", "from 0 to below 100"),
        ("?to=scan&guidance=nan", "guidance is not a number"),
        ("?to=scan&guidance=1_0", "guidance is not a number"),
        ("?to=scan&seed=4294967296", "below 4294967296"),
        ("?to=scan&seed=" + quote("١"), "seed is not a number"),
        ("?to=scan&steps=8", "the query is another"),
        ("?to=scan&to=note", "the query is another"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_before_the_patient_is_decoded(
    making, generate, query, expected
):
    said = sentence(making.client.post(f"/generate{query}", content=b"no patient"), 400)
    assert expected in said
    assert "plague" not in said
    assert not generate.calls


@pytest.mark.parametrize(
    "how", ["guidance=0", "guidance=99.9", "guidance=1e-5", "seed=4294967295", "draws=1", "draws=16"]
)
def test_the_ends_of_each_range_are_in_it(making, how):
    assert making.client.post(f"{ASKED}&{how}", json={}).status_code == 200


def test_a_version_that_is_not_served_makes_nothing(making):
    assert sentence(making.client.post(f"{ASKED}&version=x", json={}), 404)


def test_a_patient_is_refused_as_predict_refuses_it(making):
    assert "scan: is" in sentence(making.client.post(ASKED, json={"scan": NAME}), 422)
    assert sentence(making.client.post(ASKED, content=b"{", headers={"Content-Type": "text/plain"}), 415)


def test_whoever_may_not_ask_is_not_answered(tmp_path):
    for served in house(tmp_path, generate=Generate(), tokens=Tokens({"ward-3": "correct-horse-battery"})):
        assert served.client.post(ASKED, json={}).status_code == 401


def test_what_fails_is_told_without_the_patient(tmp_path, caplog):
    class Failing(Generate):
        def __call__(self, patient, *how):
            raise ValueError(patient.modalities["note"])

    for served in house(tmp_path, generate=Failing()):
        said = sentence(served.client.post(ASKED, json={"note": TEXT}), 500)
        assert said == "the server failed, which its log tells by the X-Request-Id"
        assert "ValueError" in caplog.text
        assert NAME not in caplog.text


def test_one_at_a_time_beside_the_diagnosis_and_of_too_many_the_rest_is_refused(tmp_path):
    going, go_on, at_once = threading.Event(), threading.Event(), []

    class Slow(Generate):
        def __call__(self, *asked):
            at_once.append(1)
            assert len(at_once) == 1
            going.set()
            assert go_on.wait(30)
            at_once.pop()
            return super().__call__(*asked)

    for served in house(tmp_path, generate=Slow(), generations=2):
        with ThreadPoolExecutor(2) as others:
            first = others.submit(served.client.post, ASKED, json=NOTE)
            assert going.wait(30)
            second = others.submit(served.client.post, ASKED, json=NOTE)
            while served.served[0].generations.queue.waiting < 2:
                pass
            refused = served.client.post(ASKED, json=NOTE)
            assert "2 patients are waiting already" in sentence(refused, 503)
            assert served.client.post("/predict", json=PATIENT).status_code == 200
            go_on.set()
            assert first.result().status_code == second.result().status_code == 200


def test_it_may_take_as_long_as_an_answer_may(tmp_path):
    go_on = threading.Event()

    class Slow(Generate):
        def __call__(self, *asked):
            go_on.wait(30)

    for served in house(tmp_path, generate=Slow(), seconds=0.05):
        assert "no answer within 0.05 seconds" in sentence(served.client.post(ASKED, json=NOTE), 504)
        go_on.set()
