"""A model whose engine is a line of NumPy, served; and patients for it."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.runtime import Artefact, Manifest
from robustmdiff.serving.app import make_app
from robustmdiff.serving.audit import Audit
from robustmdiff.serving.door import Door
from robustmdiff.serving.limits import Limits
from robustmdiff.serving.metrics import Metrics
from robustmdiff.serving.served import Served
from robustmdiff.serving.tokens import Tokens

TASK = Task(
    modalities=(
        Modality("scan", "image", shape=(1, 4, 4)),
        Modality("note", "text"),
        Modality("labs", "values", fields=(Field("CRP", unit="mg/L"), Field("sex", categories=("f", "m")))),
    ),
    classes=("healthy", "ill"),
    prevalence=(0.9, 0.1),
)
NAME = "Erika Mustermann"  # nowhere in what the server says
TEXT = f"{NAME} coughs"
CHANGE = {"scan": 0.3, "note": 0.004, "labs": 0.1}  # what seeing it is expected to do
FULL = 40.0  # CRP at which the probability of "ill" is 1


def tokenizer() -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cough", "fever"]
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return found


def engine(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each patient: CRP, mean brightness, number of words, each of which is there or 0."""

    def of(modality: str, x: np.ndarray) -> np.ndarray:
        at = arrays[f"{modality}.at"]
        return np.where(at >= 0, x[at], 0).astype(np.float32)

    ill = of("labs", arrays["labs.value"][:, 0] * arrays["labs.present"][:, 0]).clip(0, FULL) / FULL
    findings = np.stack(
        [of("scan", arrays["scan.pixels"].mean((1, 2, 3))), of("note", arrays["note.lengths"])], axis=1
    )
    p = np.stack([1 - ill, ill], axis=1)
    draws = p[:, None] + 0 * arrays["noise_z"][None]
    lacks = np.stack([arrays[f"{name}.at"] < 0 for name in CHANGE], axis=1)
    change = ((arrays["view"] & lacks) @ np.array([*CHANGE.values()])).astype(np.float32)
    moved = {"expected_change": change, "entropy_reduction": 2 * change}
    return {"probability": p, "in_set": p >= 0.2, "findings": findings, "draws": draws} | moved


def artefact(engine: Any = engine) -> Artefact:
    manifest = Manifest(
        TASK, "onnx", "model.onnx", "fp32", 16, "head", 3, "0.1.0", {},
        together=[["scan", "note"], ["note", "labs"]], usual_change={"note": 0.05},
    )  # fmt: skip
    noise = {"noise_u": np.zeros((2, 3), np.float32), "noise_z": np.zeros((3, 2), np.float32)}
    return Artefact(manifest, engine, Collator(TASK, tokenizer(), 16), noise)


def png(value: int = 255, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


def attribute(patient: Patient, collator: Collator, target: str) -> dict[str, Any]:
    """As `robustmdiff.explanation.attributed` says it: CRP speaks for a class, the first word of a note
    against it, and an image is grey."""
    said: dict[str, Any] = {"images": {}, "texts": {}, "values": {}}
    if "scan" in patient.modalities:
        grey = "data:image/png;base64," + base64_of(png(128))
        said["images"]["scan"] = [{"name": "", "plain": grey, "heat": grey}]
    if "note" in patient.modalities:
        first, _, rest = str(patient.modalities["note"]).partition(" ")
        pieces = [(first, -1.0, -0.01, False), (" ", None, 0.0, False), (rest, None, 0.0, True)]
        said["texts"]["note"] = [
            dict(zip(("text", "share", "points", "unread"), each, strict=True)) for each in pieces
        ]
    if "labs" in patient.modalities:
        said["values"]["labs"] = {"CRP": 0.2}
    told = {"scan": 0.0, "note": -0.01, "labs": 0.2}
    total = {name: told[name] for name in patient.modalities}
    whole = sum(total.values())
    ends = {"probability": 0.5 + whole, "baseline": 0.5, "completeness_error": 0.0}
    return {"target": target, "total": total, **ends, **said}


class Generate:
    """As `robustmdiff.generation.imagined` makes them: a scan, one channel as bright as the seed, one as the
    number of the draw; and a note with the number. `calls` are what came."""

    makes = ("scan", "note")

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, patient: Patient, to: Sequence[str], draws: int, guidance: float, seed: int
    ) -> dict[str, Any]:
        self.calls.append((patient, to, draws, guidance, seed))
        given = [name for name in patient.modalities if name not in to]
        numbers = range(1, draws + 1)

        def channel(name: str, bright: int) -> dict[str, str]:
            return {"name": name, "picture": "data:image/png;base64," + base64_of(png(bright))}

        images = {"scan": [[channel("left", seed % 256), channel("right", number)] for number in numbers]}
        texts = {"note": [f"Cough {number}." for number in numbers]}
        told = {"model": "MedM2G", "version": "0.1.0", "model_sha256": "f" * 64, "given": given}
        return {
            "synthetic": True,
            "how": {name: f"drawn from the prompts {', '.join(given) or 'nothing'}" for name in to},
            "images": {name: images[name] for name in to if name in images},
            "texts": {name: texts[name] for name in to if name in texts},
            "unread": ["modality 'note': no word of it is known"] if "note" in given else [],
            "provenance": {**told, "draws": draws, "guidance": guidance, "steps": 8, "seed": seed},
        }


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def tensor(name: str, x: Any, **more: Any) -> dict[str, Any]:
    x = np.asarray(x)
    datatype = {"b": "BOOL", "i": "INT64", "f": "FP32"}[x.dtype.kind]
    return {"name": name, "datatype": datatype, "shape": [*x.shape], "data": x.tolist()} | more


def feed_of(crp: list[float]) -> dict[str, np.ndarray]:
    """Patients with nothing but a CRP."""
    n = len(crp)
    value = np.zeros((n, 2), np.float32)
    value[:, 0] = crp
    return {
        "scan.at": np.full(n, -1),
        "scan.pixels": np.zeros((1, 1, 4, 4), np.float32),
        "note.at": np.full(n, -1),
        "note.input_ids": np.zeros((1, 1), np.int64),
        "note.lengths": np.ones(1, np.int64),
        "labs.at": np.arange(n),
        "labs.value": value,
        "labs.present": np.tile([True, False], (n, 1)),
    }


def infer_of(crp: list[float], **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor(name, x) for name, x in feed_of(crp).items()]} | more


@dataclass
class House:
    client: TestClient
    served: list[Served]
    audit: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text(encoding="utf-8").splitlines()]


def house(
    tmp_path: Path,
    *engines: Any,
    tokens: Tokens | None = None,
    attribute: Any = None,
    generate: Any = None,
    **limits: Any,
) -> Iterator[House]:
    """A server of a version for each engine, inside this process."""
    own, metrics, audit = Limits(**limits), Metrics(), tmp_path / "audit.jsonl"
    versions = [
        Served(artefact(each), f"{n:064x}"[::-1], own, metrics.batch.observe, attribute, generate)
        for n, each in enumerate(engines or (engine,))
    ]
    door = Door("ward", own, metrics, tokens, Audit(audit))
    with TestClient(make_app(versions, door)) as client:
        yield House(client, versions, audit)


@pytest.fixture
def served(tmp_path) -> Iterator[House]:
    yield from house(tmp_path)


ROOT = Path(__file__).parents[2]


class Running(NamedTuple):
    """A server on a socket."""

    process: subprocess.Popen
    port: int
    audit: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> str:
        """What it has logged."""
        self.process.send_signal(signal.SIGTERM)
        _, logged = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, logged
        return logged


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Callable[..., Running]]:
    started: list[subprocess.Popen] = []

    def started_with(
        call: float = 0, seconds: float = 30, patients: int = 2, token: str = "", beside: str = ""
    ) -> Running:
        audit = tmp_path_factory.mktemp("server") / "audit.jsonl"
        given = [str(each) for each in (audit, call, seconds, patients, token, beside)]
        words = [sys.executable, "-m", "tests.serving.process", *given]
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
                return Running(process, int(found[1]), audit)
        raise AssertionError("it has not started")

    yield started_with
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
