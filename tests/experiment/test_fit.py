from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast, ViTConfig, ViTModel

from robustmdiff.cli.explain import explain_run
from robustmdiff.cli.predict import predict_run
from robustmdiff.data.patient import DataError
from robustmdiff.data.study import texts_of
from robustmdiff.diagnosis.calibration import calibrate
from robustmdiff.encoders.tensors import tensors
from robustmdiff.evaluation.tables import to_markdown
from robustmdiff.experiment.evaluate import evaluate_run
from robustmdiff.experiment.fit import train_run
from robustmdiff.experiment.run import load_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.predictor import Predictor
from robustmdiff.training.config import TrainConfig
from tests.experiment.small_run import CONFIG, MODEL, OPTIONS

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of a text model with its tokenizer and of an image model, as of others."""
    folder = tmp_path_factory.mktemp("encoders")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in words[5:]]
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 14}
    torch.manual_seed(3)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=30, **small)).save_pretrained(
        folder / "text"
    )
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "text")
    ViTModel(ViTConfig(image_size=16, patch_size=8, num_channels=3, **small)).save_pretrained(folder / "xray")
    return folder


def test_a_run_with_encoders_of_others_needs_their_folders_only_once(encoders, tmp_path):
    named = {name: str(encoders / name) for name in ("text", "xray")}
    study = load_study(Source("cohort", options=OPTIONS, encoders=named))
    assert study.task.modality("xray").encoder == named["xray"]
    run = train_run(study, CONFIG, tmp_path / "run")

    assert run.collator.max_tokens == run.model.config.max_tokens == 30  # of 40: what the model can read
    text = texts_of(study.patients["train"], study.task)[0]
    assert run.collator.tokenizer.encode(text).tokens[1] == text[0].lower()  # it knows letters only
    start = BertModel.from_pretrained(named["text"]).state_dict()["embeddings.word_embeddings.weight"]
    now = run.model.encoders.encoders["text"].bert.embeddings.word_embeddings.weight
    assert 0 < (now - start).abs().max() < 0.02  # trained on from where it was, not from scratch

    before = predict_run(run.folder, draws=2)
    away = encoders.rename(tmp_path / "moved")
    try:
        assert predict_run(run.folder, draws=2) == before
        patients = study.patients["test"]
        again, batch = load_run(run.folder), run.collator(patients)
        expected = run.model.diagnose(run.model.encode(batch), draws=3).probability
        found = again.model.diagnose(again.model.encode(again.collator(patients)), draws=3).probability
        assert torch.equal(found, expected)
        explanation, page = explain_run(run.folder, id=patients[0].id, draws=2)
        assert page.exists()
        assert {m["name"] for m in explanation.to_json()["modalities"]} == set(study.task.modality_names)
    finally:
        away.rename(encoders)


def test_the_vocabulary_of_an_encoder_of_others_is_its_own(encoders, tmp_path):
    study = load_study(Source("cohort", options=OPTIONS, encoders={"text": str(encoders / "text")}))
    asked = CONFIG.model_copy(update={"model": replace(MODEL, vocabulary=2000)})
    with pytest.raises(
        DataError, match=r"^model\.vocabulary is 2000, expected 57, as the tokenizer of .*, or 0"
    ):
        train_run(study, asked, tmp_path / "run", kind="mask_only")


CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 2600)]


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """Notes of 2,600 distinct characters in all, each in several notes."""
    root = tmp_path_factory.mktemp("chinese")
    task = {"modalities": [{"name": "notes", "kind": "text"}], "classes": ["a", "b"]}
    (root / "task.json").write_text(json.dumps(task), encoding="utf-8")
    notes = ["".join(CHARACTERS[(97 * i + j) % 2600] for j in range(120)) for i in range(120)]
    rows = [f"p{i},{'ab'[i % 2]},{note}" for i, note in enumerate(notes)]
    (root / "patients.csv").write_text("\n".join(["id,label,notes", *rows]) + "\n", encoding="utf-8")
    return load_study(Source("folder", str(root)))


@pytest.mark.filterwarnings("error::UserWarning:robustmdiff")
def test_notes_in_chinese_train_with_all_their_characters(chinese, tmp_path):
    run = train_run(chinese, CONFIG, tmp_path / "run")
    texts = texts_of(chinese.patients["train"], chinese.task)
    assert run.model.config.vocabulary == 5 + len(set("".join(texts))) > 2000
    assert all(1 not in run.collator.tokenizer.encode(text).ids for text in texts)
    assert len({row["probability"] for row in predict_run(run.folder)}) > 20  # notes are told apart


def test_a_vocabulary_that_is_asked_for_is_kept_to(chinese, tmp_path):
    config = CONFIG.model_copy(update={"model": replace(MODEL, vocabulary=300)})
    with pytest.warns(UserWarning, match=r"a vocabulary of 300 is too small for 2\d\d\d characters"):
        run = train_run(chinese, config, tmp_path / "run")
    assert run.collator.tokenizer.get_vocab_size() == run.model.config.vocabulary == 300
    for size in (5, -1):
        config = CONFIG.model_copy(update={"model": replace(MODEL, vocabulary=size)})
        with pytest.raises(DataError, match=rf"^model\.vocabulary is {size}, expected more than 5, or 0"):
            train_run(chinese, config, tmp_path / f"run{size}")


def test_enriched_calibration_patients_are_weighed(tmp_path, monkeypatch):
    study = load_study(Source("cohort", options=OPTIONS | {"calibration_rare_per_class": 2}))
    given = []
    monkeypatch.setattr(
        "robustmdiff.experiment.fit.calibrate",
        lambda *asked: given.append(asked[4]) or calibrate(*asked),
    )
    train_run(study, CONFIG, tmp_path / "run", kind="mask_only")
    assert given == [study.calibration_weight]
    assert len(set(study.calibration_weight.round(6))) > 1


def test_a_run_that_is_there_is_not_touched(run):
    study, trained = run
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="holds a run, expected a new folder, or --resume"):
        train_run(study, CONFIG, trained.folder, kind="mask_only")
    other = load_study(Source("cohort", options=OPTIONS | {"seed": 1}))
    with pytest.raises(DataError, match=r"is a run on other data: options is .*'seed': 1"):
        train_run(other, CONFIG, trained.folder, kind="mask_only", resume=True)
    assert {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()} == before


def test_an_unknown_kind_of_model(run, tmp_path):
    with pytest.raises(DataError, match="model is 'oracle', expected one of robustmdiff, late_fusion"):
        train_run(run[0], CONFIG, tmp_path, kind="oracle")


@pytest.mark.slow  # trains until it is sure
def test_who_are_told_apart_without_error_are_answered_near_0_and_1(tmp_path):
    """With the default settings: not the first epoch that ranks all of them rightly is kept."""
    rng = np.random.default_rng(0)
    rows = [f"p{i},{('well', 'sick')[i % 2]},{80 * (i % 2) + rng.random():.3f}" for i in range(200)]
    task = {
        "modalities": [{"name": "labs", "kind": "values", "fields": [{"name": "crp", "reference": [0, 5]}]}],
        "classes": ["well", "sick"],
    }
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    (tmp_path / "patients.csv").write_text("\n".join(["id,label,labs.crp", *rows]), encoding="utf-8")
    study = load_study(Source("folder", str(tmp_path)))
    run = train_run(study, TrainConfig(model=MODEL), tmp_path / "run")
    batch = run.collator(study.patients["test"])
    p = run.model.diagnose(run.model.encode(tensors(batch))).probability
    assert p[torch.from_numpy(batch.label) == 1].min() > 0.95


def test_a_run_learns_its_second_stage_and_keeps_it(tmp_path):
    study = load_study(Source("cohort", options=OPTIONS))
    config = CONFIG.model_copy(update={"lambda_diff": 0.0})
    run = train_run(study, config, tmp_path / "run")
    assert run.model.denoiser is None  # nobody needs it
    assert run.model.answers == ("head", "full-view head", "draws")
    weights = tmp_path / "run" / "model" / "forecast.safetensors"
    written = weights.stat().st_mtime_ns
    patient = study.patients["test"][0]
    few = replace(patient, modalities=dict(list(patient.modalities.items())[:2]))
    before = run.model.diagnose(run.model.encode(run.collator([few])), draws=4)
    assert before.draws.std(0).max() > 0
    tests = Predictor(run).next_test(few, draws=4)
    assert len(tests) == len(run.task.modalities) - 2
    assert all(test.floor < 1e-9 and test.usual_change > 0 for test in tests)

    found = evaluate_run(run, study=study, replicates=3)
    assert list(found.forecasts.scores) == ["flow", "class donor", "neighbours", "ridge"]
    assert all(np.isfinite(each.energy[0]) for each in found.forecasts.scores.values())
    told = to_markdown(found, "Evaluation")
    assert "## What seeing the rest will do" in told
    assert "Energy score of flow minus that of: class donor" in told
    others = load_study(Source("cohort", options=OPTIONS | {"seed": 1}))
    assert evaluate_run(run, study=others, replicates=0).forecasts is None  # nothing was learned from theirs

    weights.unlink()  # killed before it was done
    again = train_run(study, config, tmp_path / "run", resume=True)
    assert weights.stat().st_mtime_ns > written
    after = again.model.diagnose(again.model.encode(again.collator([few])), draws=4)
    assert torch.equal(after.draws, before.draws)
