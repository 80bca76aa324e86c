"""The commands of generation, as a user types them."""

import json
import shutil
import sys

import numpy as np
import pytest

from robustmdiff.cli import main as cli
from robustmdiff.experiment.generated.measure import measure_generator
from robustmdiff.experiment.generator import load_generator_config, train_generator
from robustmdiff.experiment.studies import load_study
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import ConfigError
from tests.generation.conftest import SOURCE, TINY


@pytest.fixture
def say(capsys, monkeypatch):
    def run(*words: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["robustmdiff", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert not end.value.code, said.err
        return json.loads(said.out)

    return run


@pytest.fixture
def refused(capsys, monkeypatch):
    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["robustmdiff", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 2
        return capsys.readouterr().err

    return run


def test_generate_writes_what_it_is_asked_for(say, tiny_run, tmp_path):
    said = say(
        "generate", tiny_run, "--from", "text=fever", "--to", "xray,ct", "--draws", 2, "--out", tmp_path
    )
    assert said["given"] == ["text"]
    assert [path.rpartition("/")[2] for path in said["files"]] == [
        "synthetic-xray-1.png",
        "synthetic-xray-2.png",
        "synthetic-ct-1.png",
        "synthetic-ct-2.png",
    ]
    record = json.loads((tmp_path / "synthetic-xray-1.png.json").read_text(encoding="utf-8"))
    assert record["from"] == ["text=fever"]
    assert record["seed"] == 0
    assert len(record["model_sha256"]) == 64
    first = (tmp_path / "synthetic-xray-1.png").read_bytes()
    say("generate", tiny_run, "--from", "text=fever", "--to", "xray,ct", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "synthetic-xray-1.png").read_bytes() == first


def test_a_text_is_printed_and_written(say, tiny_run, tmp_path):
    said = say("generate", tiny_run, "--to", "text", "--votes", 4, "--out", tmp_path)
    (text,) = said["texts"]["text"]
    assert (tmp_path / "synthetic-text-1.txt").read_text(encoding="utf-8") == f"{text}\n"


def test_translate_and_complete(say, refused, tiny_run, test_patients, tmp_path):
    np.save(tmp_path / "t1.npy", test_patients[0].modalities["mri_T1w"])
    given = "--from", f"mri_T1w={tmp_path / 't1.npy'}", "--out", tmp_path / "made"
    said = say("translate", tiny_run, *given, "--to", "mri_PDw", "--format", "nii")
    assert said["how"] == {"mri_PDw": "translated from mri_T1w"}
    said = say("complete", tiny_run, *given)
    assert set(said["how"]) == {"xray", "ct", "mri_T2w", "mri_PDw", "text"}
    assert "expected a modality in whose frame an image is given" in refused(
        "translate", tiny_run, *given, "--to", "xray"
    )


def test_what_cannot_be_asked_ends_in_a_sentence(refused, tiny_run, tmp_path):
    assert "unknown modality 'xry' (did you mean 'xray'?)" in refused("generate", tiny_run, "--to", "xry")
    assert "format is 'bmp'" in refused("generate", tiny_run, "--to", "xray", "--format", "bmp")
    assert "no generator there" in refused("generate", tmp_path, "--to", "xray")
    assert "device is 'gpu9'" in refused("generate", tiny_run, "--to", "xray", "--device", "gpu9")


def test_a_finished_run_resumes_to_the_same_model_and_is_not_overwritten(tiny_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    study, config = load_study(SOURCE), load_generator_config(None, TINY)
    with pytest.raises(Refusal, match="holds a run, expected a new folder, or --resume"):
        train_generator(study, config, copy)
    other = load_generator_config(None, TINY | {"gist": 7})
    with pytest.raises(Refusal, match=r"config\.yaml: is of another run"):
        train_generator(study, other, copy, resume=True)
    weights = (copy / "model" / "model.safetensors").read_bytes()
    (copy / "model" / "model.safetensors").unlink()
    shutil.rmtree(copy / "details")  # killed before these, say
    train_generator(study, config, copy, resume=True)
    assert (copy / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gists": 4}, r"unknown key 'gists' with value 4 \(did you mean 'gist'\?\)"),
        ({"gist": 0}, "gist is 0, expected greater than or equal to 1"),
        ({"links": [["text", "xry"]]}, r"unknown modality 'xry' \(did you mean 'xray'\?\)"),
        ({"frames": [["mri_T1w", "mri_T2"]]}, "unknown modality 'mri_T2'"),
        ({"split": ["mrs"]}, "name is 'mrs', expected one of"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, sentence, tmp_path):
    with pytest.raises(Refusal, match=sentence):
        train_generator(load_study(SOURCE), load_generator_config(None, TINY | settings), tmp_path / "run")


def test_a_file_of_settings_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_generator_config(tmp_path / "nowhere.yaml", {})


def test_evaluation_measures_every_task_and_draws_it(tiny_run):
    rows = measure_generator(tiny_run, draws=2)
    tasks = {row.task for row in rows}
    assert {"others -> mri_PDw", "xray - text", "text -> xray", "xray -> text"} <= tasks
    assert "nothing -> xray, text" in tasks
    assert all(np.isfinite(row.value.value) for row in rows)
    table = json.loads((tiny_run / "evaluation" / "table.json").read_text(encoding="utf-8"))
    assert len(table) == len(rows)
    assert {path.name for path in (tiny_run / "evaluation").glob("*.png")} >= {
        "text-to-xray.png",
        "mri_T1w-mri_T2w-to-mri_PDw.png",
    }
