"""A server on a socket: the real client, slow clients, and its end."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter

import httpx
import numpy as np
import pytest

from tests.serving.conftest import FULL, NAME, TEXT, feed_of


def inputs_of(feed, binary: bool):
    from tritonclient.http import InferInput

    names = {"int64": "INT64", "float32": "FP32", "bool": "BOOL"}
    inputs = []
    for name, x in feed.items():
        inputs.append(InferInput(name, x.shape, names[x.dtype.name]))
        inputs[-1].set_data_from_numpy(x, binary_data=binary)
    return inputs


def test_the_real_client_is_answered(start):
    pytest.importorskip("tritonclient.http")
    from tritonclient.http import InferenceServerClient, InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    running = start()
    client = InferenceServerClient(f"127.0.0.1:{running.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ward")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    (version,) = client.get_model_metadata("ward")["versions"]
    crp = [10.0, 20.0]
    for binary in (False, True):
        inputs = inputs_of(feed_of(crp), binary)
        for outputs in (
            None,
            [InferRequestedOutput(name, binary_data=binary) for name in ("in_set", "probability")],
        ):
            said = client.infer("ward", inputs, version, outputs=outputs, request_id="q")
            np.testing.assert_allclose(said.as_numpy("probability")[:, 1], np.divide(crp, FULL))
            assert said.as_numpy("in_set").tolist() == [[True, True], [True, True]]
            assert (said.as_numpy("draws") is None) == (outputs is not None)
            assert said.get_response()["id"] == "q"
    with pytest.raises(InferenceServerException, match="names a tensor that there is not"):
        client.infer("ward", inputs, outputs=[InferRequestedOutput("weights")])
    with pytest.raises(InferenceServerException, match="the model is not served here"):
        client.infer("other", inputs)
    client.close()
    running.end()


def test_nothing_of_a_patient_is_logged(start):
    running = start()
    for body in ({"note": TEXT}, {"note": 3, NAME: TEXT}, {"scan": TEXT}):
        httpx.post(f"{running.url}/predict?{NAME}", json=body)
    httpx.get(f"{running.url}/{NAME}")
    logged = running.end()
    assert NAME.split()[0] not in logged
    assert "/predict" not in logged


def test_slow_clients_keep_nobody_else_out(start):
    running = start(seconds=1)
    head = b"POST /predict HTTP/1.1\r\nHost: ward\r\nContent-Type: application/json\r\n"
    slow = []
    for half in 40 * [head] + 40 * [head + b"Content-Length: 100\r\n\r\n{"]:
        slow.append(socket.create_connection(("127.0.0.1", running.port), timeout=30))
        slow[-1].sendall(half)
    assert httpx.post(f"{running.url}/predict", json={}).status_code == 200
    ended = []
    for connection in slow:
        with connection, connection.makefile("rb") as file:
            ended.append(file.read())
    assert ended[:40] == 40 * [b""]
    assert all(b" 408 " in said and b"did not come within 1 seconds" in said for said in ended[40:])
    running.end()


def test_whoever_was_accepted_is_answered_after_sigterm(start):
    """The server records a request before it is answered: what is recorded and what came have to agree."""
    running = start(call=0.05)
    came: Counter[str] = Counter()
    enough = threading.Semaphore(0)

    def ask() -> None:
        while True:
            try:
                response = httpx.post(f"{running.url}/predict", json={"labs": {"CRP": 10}}, timeout=30)
            except httpx.TransportError:  # nobody is let in any more
                return
            came[str(response.status_code)] += 1
            enough.release()

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
    for _ in range(16):
        assert enough.acquire(timeout=30)
    running.end()
    for client in clients:
        client.join(30)
    recorded = Counter(
        str(json.loads(line)["outcome"]) for line in running.audit.read_text(encoding="utf-8").splitlines()
    )
    assert came == recorded
    assert came["200"] >= 16
