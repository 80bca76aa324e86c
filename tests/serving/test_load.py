"""tools/serve_load.py asks what it says, and counts what it gets."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.serving.conftest import TASK
from tools.serve_load import Client, calls, made_patient, offer


def test_a_made_patient_has_whatever_the_task_has(served):
    patient = made_patient(TASK)
    assert [*patient] == ["scan", "note", "labs"]
    assert served.client.post("/predict", json=patient).json()["missing"] == []


def test_every_request_is_counted(start):
    running = start(patients=64)

    async def asked():
        client = Client(running.port)
        loads = [await offer(client, body, 100, 0.3) for body in (b'{"labs": {"CRP": 10}}', b"{")]
        patients, times = await calls(client)
        client.close()
        return loads, patients, times

    (good, bad), patients, times = asyncio.run(asked())
    assert (good.codes, len(good.ms), good.away) == (Counter({200: 30}), 30, 0)
    assert (bad.codes, bad.ms) == (Counter({400: 30}), [])
    assert patients == 30
    assert 1 <= times <= 30
    assert len(running.audit.read_text(encoding="utf-8").splitlines()) == 60
    running.end()


def test_whom_no_server_takes_is_counted_too(start):
    running = start()
    running.end()
    load = asyncio.run(offer(Client(running.port), b"{}", 100, 0.1))
    assert (load.away, load.codes.total()) == (10, 0)
