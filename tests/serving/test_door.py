"""Who may ask, how much, how long; what is recorded, counted and logged of it."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from robustmdiff.refusal import Refusal
from robustmdiff.serving.audit import Audit
from robustmdiff.serving.tokens import Tokens
from tests.serving.conftest import NAME, TEXT, engine, house, infer_of
from tests.serving.test_kserve import URL, outputs
from tests.serving.test_predict import sentence

TOKEN = "correct-horse-battery"


def asking(token):
    return {"Authorization": f"Bearer {token}"}


def test_who_has_no_token_is_not_let_in_but_may_ask_for_health(tmp_path):
    for served in house(tmp_path, tokens=Tokens({"ward-3": TOKEN, "ward-4": "another-long-secret"})):
        for headers in ({}, asking("wrong"), asking(TOKEN[:-1]), {"Authorization": TOKEN}):
            response = served.client.post("/predict", json={}, headers=headers)
            assert "the token is not one" in sentence(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        assert served.client.get("/metrics").status_code == 401
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/v2/health/live").status_code == 200
        assert served.client.get("/v2/health/ready").status_code == 200
        assert served.client.post("/predict", json={}, headers=asking(TOKEN)).status_code == 200
        assert [record["who"] for record in served.records] == [None] * 4 + ["ward-3"]
        assert TOKEN not in served.audit.read_text(encoding="utf-8")


def test_tokens_come_from_a_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"ward-3 {TOKEN}\n\nward-4 another-long-secret\n", encoding="utf-8")
    assert Tokens.load(path).whose(f"Bearer {TOKEN}") == "ward-3"
    for text in ("", "ward-3", "ward-3 short", f"a {TOKEN}\na {TOKEN}", f"{TOKEN} with more words"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Refusal, match="NAME TOKEN") as refused:
            Tokens.load(path)
        assert TOKEN not in str(refused.value)


def test_every_request_is_recorded_without_its_content(served):
    answer = served.client.post("/predict", json={"note": TEXT})
    sentence(served.client.post("/predict", json={"note": 3, NAME: 1}), 422)
    assert served.client.post(URL, json=infer_of([10], id=NAME)).status_code == 200
    sentence(served.client.post("/v2/models/ward/versions/9/infer", json=infer_of([10])), 404)
    own = served.served[0]
    found = [(r["route"], r["outcome"], r["version"], r["manifest"]) for r in served.records]
    assert found == [
        ("/predict", 200, own.version, own.manifest),
        ("/predict", 422, own.version, own.manifest),
        ("/v2/models/{model}/infer", 200, own.version, own.manifest),
        ("/v2/models/{model}/versions/{version}/infer", 404, None, None),
    ]
    assert served.records[0]["request"] == answer.headers["x-request-id"]
    assert NAME not in served.audit.read_text(encoding="utf-8")
    assert served.audit.stat().st_mode & 0o077 == 0


def test_what_cannot_be_recorded_is_not_answered(served, monkeypatch):
    def full(self, entry):
        raise OSError(28, "No space left on device", "/secret")

    monkeypatch.setattr(Audit, "write", full)
    assert "no record can be kept" in sentence(served.client.post("/predict", json={}), 503)


def test_versions_stand_side_by_side_and_the_last_one_answers(tmp_path):
    def other(arrays):
        return {name: 0 * x if name == "probability" else x for name, x in engine(arrays).items()}

    for served in house(tmp_path, engine, other):
        old, new = (each.version for each in served.served)
        assert served.client.get("/v2/models/ward").json()["versions"] == [old, new]
        for path, answers, p in (("", new, 0), (f"/versions/{new}", new, 0), (f"/versions/{old}", old, 0.25)):
            response = served.client.post(f"/v2/models/ward{path}/infer", json=infer_of([10]))
            assert response.json()["model_version"] == answers
            assert outputs(response)["probability"][0, 1] == p
            assert served.client.get(f"/v2/models/ward{path}/ready").json()["ready"]
        ill = {"labs": {"CRP": 10}}
        assert served.client.post("/predict", json=ill).json()["probability"]["ill"] == 0
        said = served.client.post("/predict", params={"version": old}, json=ill).json()
        assert said["probability"]["ill"] == 0.25
        sentence(served.client.post("/predict", params={"version": NAME}, json=ill), 404)


def test_a_long_body_is_refused_whatever_it_says_of_its_length(tmp_path):
    for served in house(tmp_path, body=1000):
        assert "at most 1000 bytes" in sentence(served.client.post("/predict", content=b"x" * 1001), 413)
        chunks = (b"x" * 100 for _ in range(20))
        assert "at most 1000 bytes" in sentence(served.client.post("/predict", content=chunks), 413)
        endless = {"content-length": "9" * 100}
        sentence(served.client.post("/predict", content=b"x", headers=endless), 413)
        assert served.client.post("/predict", json={}).status_code == 200


def test_a_compressed_body_is_refused(served):
    response = served.client.post("/predict", content=b"x", headers={"content-encoding": "gzip"})
    assert "Content-Encoding" in sentence(response, 415)


def test_bodies_that_no_memory_would_hold_are_refused(tmp_path):
    for served in house(tmp_path, held=1000):
        assert "expected a later try" in sentence(served.client.post("/predict", content=b"x" * 1001), 503)
        assert served.client.post("/predict", json={}).status_code == 200  # what was held is let go


def test_an_answer_that_takes_too_long_is_given_up(tmp_path):
    calls = []

    def slow(arrays):
        calls.append(len(arrays["labs.at"]))
        if len(calls) == 2:  # the first one is that on loading
            time.sleep(0.4)
        return engine(arrays)

    for served in house(tmp_path, slow, seconds=0.2):
        assert "no answer within 0.2 seconds" in sentence(served.client.post("/predict", json={}), 504)
        deadline = time.monotonic() + 10
        while served.client.post("/predict", json={}).status_code != 200:  # it has recovered
            assert time.monotonic() < deadline


def test_an_engine_that_fails_is_logged_without_what_it_says(tmp_path, caplog):
    def broken(arrays):
        if arrays["labs.at"][0] >= 0:
            raise RuntimeError(f"of {NAME}")
        return engine(arrays)

    for served in house(tmp_path, broken):
        response = served.client.post("/predict", json={"labs": {"CRP": 1}})
        assert "the server failed" in sentence(response, 500)
        assert response.headers["x-request-id"] in caplog.text
        assert "RuntimeError" in caplog.text
        assert NAME not in caplog.text
        assert served.client.post("/predict", json={}).status_code == 200


def test_metrics_count_by_route_and_name_nobody(served):
    served.client.post("/predict", json={"note": TEXT})
    served.client.post("/predict", json={NAME: 1})
    served.client.get(f"/{NAME}")
    text = served.client.get("/metrics").text
    assert 'robustmdiff_requests_total{code="200",route="/predict"} 1.0' in text
    assert 'robustmdiff_requests_total{code="422",route="/predict"} 1.0' in text
    assert 'robustmdiff_request_seconds_count{route="/predict"} 2.0' in text
    assert "robustmdiff_waiting_patients 0.0" in text
    assert 'robustmdiff_batch_patients_bucket{le="1.0"} 1.0' in text
    assert NAME.split()[0] not in text


class Gate:
    """An engine that waits until it is opened, and remembers how many patients it was asked of."""

    def __init__(self):
        self.open, self.entered = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def __call__(self, arrays):
        if self.sizes:  # not on loading
            self.entered.set()
            assert self.open.wait(30)
        self.sizes.append(len(arrays["labs.at"]))
        return engine(arrays)


def side_by_side(served, gate, crps):
    """The answers to requests that come, in this order, while the engine is with another one."""
    batcher = served.served[0].batcher
    with ThreadPoolExecutor(len(crps) + 1) as pool:
        first = pool.submit(served.client.post, URL, json=infer_of([1]))
        assert gate.entered.wait(30)
        others = []
        for crp in crps:
            before = batcher.waiting
            others.append(pool.submit(served.client.post, URL, json=infer_of(crp)))
            while batcher.waiting == before and not others[-1].done():
                time.sleep(0.001)
        gate.open.set()
        return [each.result(30) for each in (first, *others)]


def test_requests_are_answered_together_and_each_gets_its_own(tmp_path):
    gate = Gate()
    for served in house(tmp_path, gate, patients=4):
        crps = [[10], [20, 30], [5], [40], [3, 4, 5]]
        answers = side_by_side(served, gate, crps)
        assert [outputs(each)["probability"][:, 1].tolist() for each in answers[1:]] == [
            pytest.approx([x / 40 for x in crp]) for crp in crps
        ]
        assert gate.sizes == [1, 1, 4, 4]  # on loading, the first, and the others


def test_one_that_fails_does_not_take_the_others_along(tmp_path):
    class Picky(Gate):
        def __call__(self, arrays):
            said = super().__call__(arrays)
            if (arrays["labs.value"][:, 0] == 13).any():
                raise RuntimeError
            return said

    gate = Picky()
    for served in house(tmp_path, gate):
        codes = [each.status_code for each in side_by_side(served, gate, [[10], [13], [20]])]
        assert codes == [200, 200, 500, 200]


def test_a_full_queue_refuses_and_goes_on(tmp_path):
    gate = Gate()
    for served in house(tmp_path, gate, waiting=3):
        answers = side_by_side(served, gate, [[1], [2], [3], [4], [5]])
        assert sorted(each.status_code for each in answers) == [200] * 4 + [503] * 2
        for each in answers:
            if each.status_code == 503:
                assert each.headers["retry-after"] == "1"
                assert "3 patients are waiting" in each.json()["error"]
        assert json.loads(served.audit.read_text(encoding="utf-8").splitlines()[-1])["outcome"] in (200, 503)
