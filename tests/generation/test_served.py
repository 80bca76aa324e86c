"""A trained generator behind the server: what `robustmdiff serve --generator` loads, asked as a page asks."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import robustmdiff
from robustmdiff.cli import serve as command
from robustmdiff.data.collate import Collator
from robustmdiff.experiment.studies import load_study
from robustmdiff.generation.pretrained import digest
from robustmdiff.refusal import Refusal
from robustmdiff.runtime import Artefact, Manifest
from robustmdiff.serving.app import make_app
from robustmdiff.serving.door import Door
from robustmdiff.serving.limits import Limits
from robustmdiff.serving.metrics import Metrics
from robustmdiff.serving.served import Served
from tests.generation.conftest import SOURCE
from tests.serving.conftest import TASK, tokenizer

XRAY = "xray"


def manifest(task):
    return Manifest(task, "onnx", "model.onnx", "fp32", 16, "head", 0, "0.1.0", {})


@pytest.fixture(scope="module")
def task():
    return load_study(SOURCE).task


@pytest.fixture(scope="module")
def client(tiny_run, task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    manifest(task).save(folder)

    def engine(arrays):
        p = np.tile(np.float32(task.prevalence), (len(arrays[f"{XRAY}.at"]), 1))
        return {"probability": p, "in_set": p > 0}

    artefact = Artefact(manifest(task), engine, Collator(task, tokenizer(), 16), {})
    limits, metrics = Limits(), Metrics()
    generate = command._generate(tiny_run, folder, None)
    served = Served(artefact, "a" * 64, limits, generate=generate)
    with TestClient(make_app([served], Door("ward", limits, metrics, None, None))) as client:
        yield client


def ask(client, query, patient):
    response = client.post(f"/generate?{query}", json=patient)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_x_ray_from_a_text_and_an_mri_from_an_x_ray(client, tiny_run):
    said = ask(client, "to=xray&seed=5", {"text": "fever"})
    assert len(said["images"][XRAY]) == 16
    assert len({draw[0]["picture"] for draw in said["images"][XRAY]}) == 16
    assert said["provenance"] == {
        "model": "MedM2G",
        "version": robustmdiff.__version__,
        "model_sha256": digest(tiny_run / "model"),
        "given": ["text"],
        "draws": 16,
        "guidance": 1.0,
        "steps": 8,
        "seed": 5,
    }
    png = said["images"][XRAY][0][0]["picture"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(png))).size == (16, 16)
    said = ask(client, "to=mri,text&draws=2", {"xray": png})  # of a synthetic one, as of any
    assert [len(draw) for draw in said["images"]["mri"]] == [3, 3]
    assert [type(text) for text in said["texts"]["text"]] == [str, str]
    assert said["provenance"]["given"] == [XRAY]


def test_it_says_what_the_schema_says(client):
    jsonschema = pytest.importorskip("jsonschema")
    operation = client.get("/openapi.json").json()["paths"]["/generate"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(ask(client, "to=xray,ct,mri,text&draws=2", {"structured": {"age": 61}}), schema)
    (to,) = [each["schema"] for each in operation["parameters"] if each["name"] == "to"]
    assert {*to["items"]["enum"]} == {"xray", "ct", "mri", "text"}
    assert {*client.get("/task").json()["generates"]} == {"xray", "ct", "mri", "text"}


def test_a_generator_of_another_task_is_refused_at_the_start(tiny_run, tmp_path):
    manifest(TASK).save(tmp_path)
    with pytest.raises(Refusal, match=r"the generator knows .*xray, expected this task's modalities"):
        command.serve([tmp_path], generator=tiny_run)


def test_a_folder_that_holds_none_is_refused_at_the_start(tmp_path):
    with pytest.raises(Refusal, match=r"model\.json: no generator there"):
        command.serve([Path("nowhere")], generator=tmp_path)
