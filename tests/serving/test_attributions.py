"""Pixels, words and values: by whom the server was given to tell them, guarded as every question is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.conftest import NAME, TEXT, attribute, house
from tests.serving.test_predict import PATIENT, sentence

ASKED = "/attribute?class=ill"


@pytest.fixture
def telling(tmp_path):
    yield from house(tmp_path, attribute=attribute)


def test_it_says_what_was_told_of_the_patient_that_came(telling):
    said = telling.client.post(ASKED, json=PATIENT).json()
    assert (said.pop("model"), said.pop("version")) == ("ward", telling.served[0].version)
    assert said["target"] == "ill"
    assert said["values"] == {"labs": {"CRP": 0.2}}
    assert [piece["text"] for piece in said["texts"]["note"]] == ["cough", " ", "fever"]
    assert telling.client.get("/task").json()["attributes"] is True
    assert [(r["route"], r["outcome"]) for r in telling.records] == [("/attribute", 200)]


def test_without_a_run_it_says_what_is_needed(served):
    expected = "pixels and words need torch and the run, expected a server started with --run"
    assert sentence(served.client.post(ASKED, json=PATIENT), 404) == expected
    assert served.client.get("/task").json()["attributes"] is False
    assert sentence(served.client.post(ASKED, content=b"no patient"), 404) == expected


@pytest.mark.parametrize(
    "query", ["", "?class=", "?class=plague", "?version=x", "?class=ill&class=ill", "?clas=ill"]
)
def test_another_query_is_refused(telling, query):
    said = sentence(
        telling.client.post(f"/attribute{query}", json=PATIENT), 404 if "version" in query else 400
    )
    assert "plague" not in said


def test_what_cannot_be_asked_is_refused_before_the_patient_is_decoded(telling, monkeypatch):
    monkeypatch.setattr("robustmdiff.serving.patients.from_json", lambda *given: pytest.fail("decoded"))
    assert sentence(telling.client.post("/attribute?class=plague", json=PATIENT), 400)


def test_a_patient_is_refused_as_predict_refuses_it(telling):
    assert "scan: is" in sentence(telling.client.post(ASKED, json={"scan": NAME}), 422)
    assert sentence(telling.client.post(ASKED, content=b"{", headers={"Content-Type": "text/plain"}), 415)


def test_what_fails_is_told_without_the_patient(tmp_path, caplog):
    def fails(patient, collator, target):
        raise ValueError(patient.modalities["note"])

    for served in house(tmp_path, attribute=fails):
        said = sentence(served.client.post(ASKED, json={"note": TEXT}), 500)
        assert said == "the server failed, which its log tells by the X-Request-Id"
        assert "ValueError" in caplog.text
        assert NAME not in caplog.text


def test_one_at_a_time_and_of_too_many_the_rest_is_refused(tmp_path):
    going, go_on, at_once = threading.Event(), threading.Event(), []

    def slow(patient, collator, target):
        at_once.append(1)
        assert len(at_once) == 1
        going.set()
        assert go_on.wait(30)
        at_once.pop()
        return attribute(patient, collator, target)

    for served in house(tmp_path, attribute=slow, attributions=2):
        with ThreadPoolExecutor(2) as others:
            first = others.submit(served.client.post, ASKED, json=PATIENT)
            assert going.wait(30)
            second = others.submit(served.client.post, ASKED, json=PATIENT)
            while served.served[0].attributions.queue.waiting < 2:
                pass
            refused = served.client.post(ASKED, json=PATIENT)
            assert "2 patients are waiting already" in sentence(refused, 503)
            assert refused.headers["Retry-After"] == "1"
            assert served.client.post("/predict", json=PATIENT).status_code == 200
            go_on.set()
            assert first.result().status_code == second.result().status_code == 200


def test_it_may_take_as_long_as_an_answer_may(tmp_path):
    go_on = threading.Event()
    for served in house(tmp_path, attribute=lambda *given: go_on.wait(30), seconds=0.05):
        assert "no answer within 0.05 seconds" in sentence(served.client.post(ASKED, json=PATIENT), 504)
        go_on.set()
