"""The exported folder: whole or refused, and loaded where there is no torch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.refusal import Refusal
from robustmdiff.runtime import Artefact, Manifest
from robustmdiff.runtime.manifest import sha256

TASK = Task(modalities=(Modality("note", "text"),), classes=("healthy", "ill"), prevalence=(0.9, 0.1))


@pytest.fixture
def folder(tmp_path):
    """Files as an export has them, but for their content."""
    for name in ("model.onnx", "noise.npz", "tokenizer.json"):
        (tmp_path / name).write_bytes(bytes(range(256)))
    files = {path.name: sha256(path) for path in tmp_path.iterdir()}
    Manifest(TASK, "onnx", "model.onnx", "fp32", 128, "head", 16, "0.1.0", files).save(tmp_path)
    return tmp_path


def test_it_comes_back_as_it_was(folder):
    found = Manifest.load(folder)
    assert (found.task, found.draws, found.max_tokens) == (TASK, 16, 128)


@pytest.mark.parametrize("name", ["model.onnx", "noise.npz", "tokenizer.json"])
def test_a_file_that_was_altered_cut_or_lost_is_refused_by_name(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for other in (whole[:-1], whole + b" ", whole.replace(whole[100:104], b"abcd", 1)):
        path.write_bytes(other)
        with pytest.raises(Refusal, match=rf"{name}: is not the file that was exported"):
            Artefact.load(folder)
    path.unlink()
    with pytest.raises(Refusal, match=rf"{name}: cannot be read"):
        Artefact.load(folder)


def test_the_manifest_of_another_model_is_refused_by_a_file_that_it_does_not_know(folder):
    """Its classes, in whichever order, are not those of these files."""
    (folder / "model.onnx").write_bytes(b"other weights")
    others = {path.name: sha256(path) for path in folder.iterdir() if path.suffix != ".json"}
    other = replace(TASK, classes=("ill", "healthy"), prevalence=(0.1, 0.9))
    Manifest(other, "onnx", "model.onnx", "fp32", 128, "head", 16, "0.1.0", others).save(folder)
    (folder / "model.onnx").write_bytes(bytes(range(256)))
    with pytest.raises(Refusal, match=r"model\.onnx: is not the file that was exported"):
        Artefact.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=2), "format is not 1"),
        (lambda m: m.pop("task"), "is no manifest"),
        (lambda m: m.update(more=1), "is no manifest"),
        (lambda m: m.update(engine="abacus"), "abacus cannot be run here, expected one of onnx, aoti"),
        (lambda m: m.update(files={"../model.onnx": "0"}), "expected one of its own folder"),
        (lambda m: m["task"].update(classes=[]), "classes"),
    ],
)
def test_a_manifest_of_something_else_is_refused(folder, change, said):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(Refusal, match=said):
        Artefact.load(folder)


def test_an_engine_that_was_not_exported_is_refused(folder):
    with pytest.raises(Refusal, match="engine is 'aoti', expected one that it holds: onnx"):
        Artefact.load(folder, engine="aoti")


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_manifest_that_is_none_is_refused(folder, text):
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(Refusal, match="is no manifest"):
        Manifest.load(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no exported model"):
        Artefact.load(tmp_path)
