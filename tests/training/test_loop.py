from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toy
from toy import CONFIG, Toy, make_patients

from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.train import train
from robustmdiff.training.checkpoint import CheckpointError, load_checkpoint
from robustmdiff.training.config import load_config, make_config
from robustmdiff.training.log import TrainingError
from robustmdiff.training.notes import read_notes


def changed(**values):
    return CONFIG.model_copy(update=values)


def rows(out_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("finished")
    return toy.run(out_dir)


def test_it_learns_and_leaves_everything_behind(finished):
    assert {p.name for p in finished.out_dir.iterdir()} == {
        "config.yaml",
        "notes.json",
        "metrics.jsonl",
        "tensorboard",
        "best.safetensors",
        "last.safetensors",
    }
    assert load_config(finished.out_dir / "config.yaml") == CONFIG
    steps = [row for row in rows(finished.out_dir) if "loss" in row]
    valid = [row for row in rows(finished.out_dir) if "valid/macro_auroc" in row]
    assert [row["step"] for row in steps] == list(range(1, 19))  # 93 patients, 6 steps, 3 epochs
    assert [row["step"] for row in valid] == [6, 12, 18]
    for row in steps:
        assert row["loss"] == pytest.approx(row["class"] + 0.5 * row["cons"], rel=1e-6)
        assert row["diff"] == 0  # the model has no such term
    assert finished.metrics["macro_auroc"] == max(row["valid/macro_auroc"] for row in valid) > 0.6
    assert list((finished.out_dir / "tensorboard").iterdir())
    assert not finished.model.training


def test_returned_and_saved_weights_are_the_best_averaged_ones(finished):
    checkpoint = load_checkpoint(finished.out_dir)
    assert checkpoint.path.name == "best.safetensors"
    assert (checkpoint.step, checkpoint.metrics) == (finished.best_step, finished.metrics)
    assert checkpoint.state["task"] == toy.TASK.to_json()
    assert make_config(checkpoint.state["config"]) == CONFIG
    for name, value in finished.model.state_dict().items():
        assert torch.equal(value, checkpoint.weights[name]), name
    last = load_checkpoint(finished.out_dir / "last.safetensors")
    assert not torch.equal(last.weights["head.weight"], last.tensors["model.head.weight"])
    assert torch.equal(last.weights["head.weight"], last.tensors["ema.head.weight"])


def test_encoders_are_fitted_on_the_training_patients(finished):
    assert finished.model.encoders.fitted == 93


def test_the_same_run_twice_is_the_same(finished, tmp_path):
    again = toy.run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (finished.out_dir / "metrics.jsonl").read_bytes()
    assert torch.equal(again.model.head.weight, finished.model.head.weight)


def test_packing_and_logging_change_no_number(finished, tmp_path):
    """But how hard each term pulls at the encoders, which is looked at once in `log_every` steps."""
    toy.run(tmp_path, changed(cache_gb=0.0, log_every=100, save_every=4))
    looked_at = {"gradient/diff", "gradient/cons", "gradient/class", "gradient/find"}
    expected = []
    for row in rows(finished.out_dir):
        assert looked_at.isdisjoint(row) == ("loss" not in row or row["step"] % CONFIG.log_every > 0)
        expected.append({name: value for name, value in row.items() if name not in looked_at})
    assert rows(tmp_path) == expected


def test_a_finished_run_that_resumes_is_done(finished):
    before = (finished.out_dir / "metrics.jsonl").read_bytes()
    again = toy.run(finished.out_dir, resume=True)
    assert again.metrics == finished.metrics
    assert (finished.out_dir / "metrics.jsonl").read_bytes() == before


def test_accumulated_parts_give_the_same_curve(tmp_path):
    toy.run(tmp_path / "whole", model=seeded())
    toy.run(tmp_path / "parts", changed(accumulate=3), model=seeded())
    assert_same_curve(rows(tmp_path / "whole"), rows(tmp_path / "parts"))


def assert_same_curve(a: list[dict], b: list[dict]) -> None:
    """Equal but for the order of float32 sums, which moved 18 steps' losses by 2e-7 when measured."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert y == pytest.approx(x, rel=2e-6), x["step"]


def seeded(**arguments) -> Toy:
    torch.manual_seed(5)
    return Toy(**arguments)


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains_in_the_same_process(tmp_path, precision):
    result = toy.run(tmp_path, changed(precision=precision))
    assert result.metrics["macro_auroc"] > 0.6
    assert result.model.head.weight.dtype == torch.float32


def test_rare_classes_can_be_drawn_more_often(tmp_path):
    result = toy.run(tmp_path, changed(rare="sample", gamma=1.0))
    assert result.metrics["macro_auroc"] > 0.6


def test_without_validation_the_last_weights_are_the_best(tmp_path):
    result = train(seeded(), make_patients(20), [], toy.collator(), changed(epochs=2), tmp_path)
    assert (result.best_step, result.metrics) == (2, {})
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert torch.equal(result.model.head.weight, last.weights["head.weight"])


def test_patients_with_nothing_and_modalities_that_no_one_has(tmp_path):
    def bare(patients):
        return [
            Patient(p.id, {"labs": p.modalities["labs"]} if i % 2 else {}, p.labels)
            for i, p in enumerate(patients)
        ]

    train(
        seeded(), bare(make_patients(37)), bare(make_patients(31, 1, "v")), toy.collator(), CONFIG, tmp_path
    )
    assert all(row["loss"] < 10 for row in rows(tmp_path) if "loss" in row)


def test_what_a_reader_has_to_know_is_told_once_and_kept(tmp_path, capfd):
    patients = [p for p in make_patients(30) if "tb" not in p.labels]
    config = changed(epochs=None, batch_size=None, monitor=None)
    arguments = (patients, make_patients(3, 1, "v"), toy.collator(), config, tmp_path)
    result = train(seeded(), *arguments, name="late_fusion")
    notes = {note.topic: note for note in read_notes(tmp_path)}
    assert set(notes) == {"few", "unseen", "batch_size", "epochs", "monitor"}
    assert notes["unseen"].sentence.startswith("No training patient has 'tb'")
    assert (notes["batch_size"].n, notes["epochs"].n, notes["monitor"].n) == (len(patients), result.steps, 3)
    told = capfd.readouterr().err
    for note in notes.values():
        assert told.count(f"late_fusion: {note.sentence}\n") == 1
    assert "late_fusion, epoch 1 of" in told
    assert "3 patients, 0 of 3 classes: log_loss" in told  # all have one class: there is no macro_auroc
    assert result.best_step == result.steps  # the last averaged weights
    assert load_config(tmp_path / "config.yaml").monitor == "last"
    train(seeded(), *arguments, resume=True)
    assert notes["monitor"].sentence not in capfd.readouterr().err
    assert {note.topic: note for note in read_notes(tmp_path)} == notes


@pytest.mark.parametrize(
    ("patients", "valid", "config", "message"),
    [
        ([], [], CONFIG, "patients_train is empty"),
        (
            make_patients(9),
            make_patients(9)[4:],
            CONFIG,
            r"patient 'p4' is in patients_train and in .* \(5 such",
        ),
        (make_patients(9), make_patients(1, name="v"), CONFIG, "no class with both kinds.*monitor: log_loss"),
        (
            make_patients(3),
            [],
            changed(accumulate=4),
            "a batch has 3 patients, expected at least one for each",
        ),
        (
            make_patients(9),
            [],
            changed(p_scale={"lab": 1.0}),
            "scale names 'lab', expected one of xray, labs",
        ),
    ],
    ids=["nobody", "on-both-sides", "one-valid", "more-parts-than-patients", "unknown-modality"],
)
def test_bad_input_is_refused_before_training(tmp_path, patients, valid, config, message):
    with pytest.raises(ValueError, match=message):
        train(seeded(), patients, valid, toy.collator(), config, tmp_path)
    assert not (tmp_path / "last.safetensors").exists()


def test_a_label_unknown_to_the_task(tmp_path):
    patients = [*make_patients(5), Patient("odd", {}, {"cold": True})]
    with pytest.raises(ValueError, match=r"odd.*cold"):
        train(seeded(), patients, [], toy.collator(), CONFIG, tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    class Exploding(Toy):
        count = 0

        def losses(self, *arguments):
            self.count += 1
            losses = super().losses(*arguments)
            return losses._replace(L_cons=losses.L_cons * (float("nan") if self.count == 8 else 1))

    with pytest.raises(TrainingError, match=r"step 8: .* is nan, expected a finite number"):
        toy.run(tmp_path, model=Exploding())
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert last.step == 6
    assert all(value.isfinite().all() for value in last.tensors.values())


def test_a_folder_with_a_run_is_not_overwritten(finished):
    before = (finished.out_dir / "last.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="exists: resume that run, or train into another folder"):
        toy.run(finished.out_dir)
    assert (finished.out_dir / "last.safetensors").read_bytes() == before
