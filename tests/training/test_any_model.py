"""The loop trains what is no diagnosis model, and resumes it to the bit."""

from __future__ import annotations

import json

import autoencoder
import pytest
import torch
import toy

from robustmdiff.training.checkpoint import CheckpointError, load_checkpoint
from robustmdiff.training.contract import Validation

STEPS = 36  # 45 images in batches of 7 and 8, 6 epochs


def lines(out_dir) -> list[str]:
    path = out_dir / "metrics.jsonl"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return autoencoder.run(tmp_path_factory.mktemp("finished"))


def test_an_autoencoder_learns_and_keeps_its_best_weights(finished):
    rows = [json.loads(line) for line in lines(finished.out_dir)]
    steps = [row for row in rows if "loss" in row]
    valid = {row["step"]: row["valid/error"] for row in rows if "valid/error" in row}
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    for row in steps:
        assert set(row) == {"step", "epoch", "lr", "error", "size", "loss", "grad_norm"}
        assert row["loss"] == pytest.approx(row["error"] + 0.01 * row["size"], rel=1e-6)
    assert list(valid) == [6, 12, 18, 24, 30, 36]
    assert finished.metrics == {"error": min(valid.values())}
    assert valid[finished.best_step] == min(valid.values()) < 0.8 * valid[6]
    assert not finished.model.training
    best = load_checkpoint(finished.out_dir)
    for name, value in finished.model.state_dict().items():
        assert torch.equal(value, best.weights[name]), name


def test_it_is_killed_and_resumes_to_the_bit(finished, tmp_path):
    out_dir = tmp_path / "run"
    for number, enough in enumerate([10, 24]):
        process = toy.start(autoencoder.run, out_dir, number > 0, 0.02, stderr=out_dir.with_suffix(".err"))
        while len(lines(out_dir)) < enough:
            assert process.is_alive(), out_dir.with_suffix(".err").read_text(encoding="utf-8")
        process.kill()
        process.join()
    assert 0 < load_checkpoint(out_dir / "last.safetensors").step < STEPS
    again = autoencoder.run(out_dir, resume=True)
    assert lines(out_dir) == lines(finished.out_dir)
    assert (again.best_step, again.metrics) == (finished.best_step, finished.metrics)
    for name in ("last.safetensors", "best.safetensors"):
        one, other = load_checkpoint(out_dir / name), load_checkpoint(finished.out_dir / name)
        assert set(one.tensors) == set(other.tensors)
        for key, value in one.tensors.items():
            assert torch.equal(value, other.tensors[key]), (name, key)
    assert not list(out_dir.glob("*.partial"))


def test_another_config_is_not_resumed(finished):
    other = autoencoder.CONFIG.model_copy(update={"clip": 2.0})
    with pytest.raises(CheckpointError, match=r"another config: clip is 1\.0 in the checkpoint and 2\.0 now"):
        autoencoder.run(finished.out_dir, resume=True, config=other)


@pytest.mark.parametrize(("higher", "better"), [(True, [True, False, True]), (False, [True, True, False])])
def test_which_way_is_better_is_the_validations(higher, better):
    validation = Validation(dict, "m", higher, "")
    pairs = [({"m": 1.0}, {}), ({"m": 1.0}, {"m": 2.0}), ({"m": 3.0}, {"m": 2.0})]
    assert [validation.better(new, old) for new, old in pairs] == better
    assert not any(Validation(dict, None, higher, "").better(new, old) for new, old in pairs)


def test_of_equals_the_tie_decides():
    """The first of many saturated AUROCs is the least sure of what it knows."""
    validation = Validation(dict, "m", True, "", tie="loss")
    old = {"m": 1.0, "loss": 0.5}
    assert [validation.better({"m": 1.0, "loss": x}, old) for x in (0.4, 0.5, 0.6)] == [True, False, False]
    assert not validation.better({"m": 0.9, "loss": 0.1}, old)
    assert not Validation(dict, "m", True, "").better({"m": 1.0, "loss": 0.4}, old)
