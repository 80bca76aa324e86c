"""The kind of docs/adding_a_kind.md, as it is printed there: two files, and a line in each of two tables, are
enough for a model that is trained, explained, exported and served."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig

import robustmdiff.data.kinds
import robustmdiff.encoders
from robustmdiff import Predictor
from robustmdiff.data.collate import Collator
from robustmdiff.data.kinds import KINDS
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.sources.folder import load_folder
from robustmdiff.data.task import Task
from robustmdiff.data.task_file import task_from
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import EncoderConfig, ModelConfig
from robustmdiff.encoders.kinds import ENCODERS
from robustmdiff.encoders.own import try_out
from robustmdiff.encoders.tensors import take, tensors
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.run import Run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.explanation.attribution import attribute, read
from robustmdiff.explanation.patient_page import render_patient_page
from robustmdiff.export.export import export_run
from robustmdiff.export.graph import DiagnosisGraph
from robustmdiff.export.parity import compare
from robustmdiff.export.triton_server import BatchedGraph, config_of
from robustmdiff.refusal import Refusal
from robustmdiff.runtime import Artefact
from robustmdiff.serving.app import make_app
from robustmdiff.serving.audit import Audit
from robustmdiff.serving.door import Door
from robustmdiff.serving.limits import Limits
from robustmdiff.serving.metrics import Metrics
from robustmdiff.serving.served import Served
from robustmdiff.training.config import TrainConfig
from tests.serving.browser import CHROMIUM, Browser

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_kind.md"
FILES = ["robustmdiff/data/kinds/wave.py", "robustmdiff/encoders/wave.py"]
TOLERANCE = 1e-5  # of a probability, as `export` asks for
C, L, PATIENTS = 2, 32, 32


@pytest.fixture(scope="module", autouse=True)
def wave(tmp_path_factory) -> Iterator[None]:
    """The files of the page in a folder that Python finds beside the package, and its lines in the tables."""
    folder, page = tmp_path_factory.mktemp("wave"), PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in found] == FILES
    with pytest.MonkeyPatch.context() as patch:
        for package, (name, text) in zip((robustmdiff.data.kinds, robustmdiff.encoders), found, strict=True):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(text, encoding="utf-8")
            patch.setattr(package, "__path__", [*package.__path__, str((folder / name).parent)])
        lines = re.findall(r'^    "(wave)": (\w+)(\(?)', page, re.MULTILINE)
        for table, (name, written, made), module in zip((KINDS, ENCODERS), lines, FILES, strict=True):
            of_page = getattr(import_module(module[:-3].replace("/", ".")), written)
            patch.setitem(table, name, of_page() if made else of_page)
        yield
    for module in FILES:
        del sys.modules[module[:-3].replace("/", ".")]


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """A folder of people whose wave is high where they are ill."""
    root, rng = tmp_path_factory.mktemp("patients"), np.random.default_rng(0)
    page = PAGE.read_text(encoding="utf-8")
    ecg = json.loads(re.findall(r"```json\n(.*?)\n```", page)[0])
    fields = [{"name": "crp", "unit": "mg/l", "reference": [0, 5]}]
    modalities = [ecg, {"name": "labs", "kind": "values", "fields": fields}]
    (root / "task.json").write_text(
        json.dumps({"modalities": modalities, "classes": ["well", "ill"]}), encoding="utf-8"
    )
    rows = []
    for i in range(PATIENTS):
        np.save(root / f"{i}.npy", (rng.normal(size=(C, L)) + i % 2).astype(np.float32))
        rows.append(f"p{i},{('well', 'ill')[i % 2]},{f'{i}.npy' if i % 3 else ''},{i if i % 5 else ''}")
    (root / "patients.csv").write_text("\n".join(["id,label,ecg,labs.crp", *rows]) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run(patients, tmp_path_factory) -> Run:
    sizes = ModelConfig(d_h=8, layers=1, heads=2, width=12, depth=1, draws=4, dropout=0)
    config = TrainConfig(epochs=1, batch_size=8, forecast="none", model=sizes)
    study = load_study(Source("folder", str(patients)))
    assert len(study.patients["train"]) >= 2 * config.batch_size  # two steps
    return train_run(study, config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor(run)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Artefact:
    return Artefact.load(export_run(run, tmp_path_factory.mktemp("artefact")), threads=1)


@pytest.fixture(scope="module")
def people(patients) -> list[Patient]:
    """One with all, and the same with either."""
    patient = next(p for p in load_folder(patients)[0] if p.has("ecg") and p.has("labs"))
    return [patient, *(Patient("", {name: patient.modalities[name]}) for name in ("ecg", "labs"))]


def test_a_kind_has_an_encoder():
    assert KINDS.keys() == ENCODERS.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"shape is None, expected \(channels, length\)"),
        ({"shape": (2, 3, 4)}, r"shape is \(2, 3, 4\), expected \(channels, length\)"),
        (
            {"shape": (2, 3), "channels": ("I", "II")},
            r"channels is \('I', 'II'\), expected none: its kind is",
        ),
        ({"shape": (2, 3), "encoder": "bert"}, "there are no transformers models of wave"),
    ],
)
def test_what_it_declares_is_checked(settings, message):
    with pytest.raises(Refusal, match=message):
        Task((Modality("ecg", "wave", **settings),), ("well", "ill"), (0.5, 0.5))


def test_it_is_packed_and_taken(people):
    task = Task((Modality("ecg", "wave", shape=(C, L)),), ("well", "ill"), (0.5, 0.5))
    assert task_from(task.to_json(), "task") == task
    ecg = people[0].modalities["ecg"]
    batch = tensors(
        Collator(task)([Patient("a", {}), Patient("b", {"ecg": ecg}), Patient("c", {"ecg": -ecg})])
    )
    assert batch.presence.tolist() == [[False], [True], [True]]
    last = take(batch.inputs["ecg"], torch.tensor([1]))
    assert last.rows.tolist() == [2]
    assert torch.equal(last.samples[0], torch.from_numpy(-ecg))
    with pytest.raises(DataError, match=r"patient 'a', modality 'ecg': is list, expected float32 \[2, 32\]"):
        Collator(task)([Patient("a", {"ecg": ecg.tolist()})])
    try_out(
        ENCODERS["wave"](task.modalities[0], EncoderConfig(d_h=8)), task.modalities[0], EncoderConfig(d_h=8)
    )


def test_it_is_read_of_a_table_trained_and_predicted_with_and_without(run, predictor, people):
    assert isinstance(run.model, RobustMDiff)
    assert run.task.modality("ecg") == Modality("ecg", "wave", shape=(C, L))
    both, wave, labs = predictor.diagnose(people)
    assert (both.missing, wave.missing, labs.missing) == ((), ("labs",), ("ecg",))
    assert both.probability != labs.probability != wave.probability


def test_it_is_explained_down_to_its_samples(run, predictor, people):
    found = attribute(run.model, read(run.model, people[0], run.collator), 1, steps=16)
    assert found.parts["ecg"].shape == (C, L)
    assert found.parts["ecg"].sum().item() == pytest.approx(found.total["ecg"], rel=1e-4)
    assert found.total["ecg"] != 0
    said = predictor.explain(people[0])
    assert said.present == ("ecg", "labs")
    assert "ecg" in render_patient_page(said)


def test_what_is_exported_says_what_the_run_says(predictor, exported, people):
    parity = compare(predictor, exported, people)
    assert parity.views >= 4
    assert (parity.largest < TOLERANCE, parity.sets) == (True, 0)


def test_triton_is_told_of_its_samples(run):
    graph = BatchedGraph(DiagnosisGraph(run.model, run.conformal, run.abstention))
    example = graph.example()
    with torch.no_grad():
        config = text_format.Parse(config_of(example, graph(example)), TritonConfig())
    told = {each.name: list(each.dims) for each in config.input}
    assert told == {
        "ecg.there": [1],
        "ecg.samples": [C, L],
        "labs.there": [1],
        "labs.value": [1],
        "labs.present": [1],
    }


@pytest.fixture
def app(exported, tmp_path) -> FastAPI:
    limits, metrics = Limits(), Metrics()
    served = Served(exported, "0" * 64, limits, metrics.batch.observe)
    return make_app([served], Door("ward", limits, metrics, None, Audit(tmp_path / "audit")))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_page_takes_it_as_json(app, exported, people, tmp_path):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    browser = Browser(tmp_path / "profile")
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        browser.visit(f"http://127.0.0.1:{port}", 1280, 800)
        browser.until("typeof task === 'object' && !form.hidden")
        raw = json.dumps({"ecg": people[1].modalities["ecg"].tolist()})
        browser.value(f"fill({raw}); form.requestSubmit()")
        browser.until("document.getElementById('said').childElementCount > 0")
        said = browser.value("JSON.stringify(last)")
    finally:
        browser.close()
        server.should_exit = True
        thread.join()
    assert json.loads(said)["probability"] == pytest.approx(
        exported.diagnose(people[1]).probability, abs=TOLERANCE
    )


def test_it_is_served(app, exported, people):
    ecg, labs = people[0].modalities["ecg"], people[0].modalities["labs"]
    expected = exported.diagnose(people[0]).probability
    with TestClient(app) as client:
        raw = {"ecg": ecg.tolist(), "labs": labs}
        said = client.post("/predict", json=raw)
        assert said.json()["probability"] == pytest.approx(expected, abs=TOLERANCE), said.text
        parts = {name: (None, json.dumps(x)) for name, x in raw.items()}
        assert client.post("/predict", files=parts).json() == said.json()
        wrong = client.post("/predict", json={"ecg": [[1.0]]})
        assert (wrong.status_code, wrong.json()["error"].partition(", ")[2]) == (
            422,
            f"expected {C} lists of {L} numbers",
        )

        told = client.get("/v2/models/ward").json()["inputs"]
        assert {"name": "ecg.samples", "datatype": "FP32", "shape": [-1, C, L]} in told
        feed = exported.inputs(exported.collator([people[0]]))
        inputs = [
            {**each, "shape": [*feed[each["name"]].shape], "data": feed[each["name"]].tolist()}
            for each in told
        ]
        inferred = client.post("/v2/models/ward/infer", json={"inputs": inputs}).json()["outputs"]
        probability = next(each["data"] for each in inferred if each["name"] == "probability")
        assert probability == pytest.approx([*expected.values()], abs=TOLERANCE)
        schema = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        ecg_schema = schema["application/json"]["schema"]["properties"]["ecg"]["anyOf"][0]
        assert (ecg_schema["maxItems"], ecg_schema["items"]["maxItems"]) == (C, L)
