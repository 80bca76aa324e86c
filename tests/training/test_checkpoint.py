from __future__ import annotations

import dataclasses
import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import save_file
from torch import nn

from robustmdiff.data.modality import Field, Modality
from robustmdiff.diagnosis.train import train
from robustmdiff.training.checkpoint import (
    LAST,
    CheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run cut short after its first epoch, to be copied and resumed."""
    out_dir = tmp_path_factory.mktemp("run")

    class Full(toy.Toy):
        def losses(self, *arguments):
            if self.encoders.training and (out_dir / LAST).exists():
                raise KeyboardInterrupt
            return super().losses(*arguments)

    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        toy.run(out_dir, model=Full(dropout=0.1))
    assert load_checkpoint(out_dir / LAST).step == 6
    return out_dir


@pytest.fixture
def run_copy(run_dir, tmp_path):
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def resume(out_dir, config=toy.CONFIG, model=None, patients=None):
    patients = toy.make_patients(93) if patients is None else patients
    model = toy.Toy(dropout=0.1) if model is None else model
    return train(model, patients, toy.make_patients(41, 1, "v"), toy.collator(), config, out_dir, resume=True)


def test_round_trip_with_tied_weights(tmp_path):
    a = torch.randn(3, 5)
    path = tmp_path / LAST
    tensors = {"model.a": a, "model.tied": a, "model.turned": a.T, "ema.a": a + 1, "model.n": torch.tensor(3)}
    save_checkpoint(path, tensors, state())
    loaded = load_checkpoint(path)
    for name, value in tensors.items():
        assert torch.equal(loaded.tensors[name], value), name
        assert loaded.tensors[name].dtype == value.dtype
    assert torch.equal(loaded.weights["a"], a + 1)
    assert torch.equal(loaded.weights["tied"], a)
    assert not list(tmp_path.glob("*.partial"))


def state(step=4):
    from robustmdiff.training.config import plain_config

    return {
        "step": step,
        "metrics": {"macro_auroc": 0.5},
        "config": plain_config(toy.CONFIG),
        "task": toy.TASK.to_json(),
        "patients": "",
    }


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint here, expected best\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file(run_copy, share):
    path = run_copy / LAST
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"last\.safetensors: is truncated or no checkpoint"):
        resume(run_copy)


def test_a_file_of_someone_else(run_copy):
    save_file({"a": torch.zeros(3)}, run_copy / LAST)
    with pytest.raises(CheckpointError, match="was not written by robustmdiff"):
        resume(run_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, r"learning_rate is 0\.02 in the checkpoint and 0\.5 now"),
        ({"epochs": 9}, "epochs is 3 in the checkpoint and 9 now"),
        ({"p_scale": {"labs": 0.5}}, r"p_scale\.labs is None in the checkpoint and 0\.5 now"),
        (
            {"model": dataclasses.replace(toy.CONFIG.model, layers=4)},
            r"model\.layers is 2 in the checkpoint and 4 now",
        ),
    ],
    ids=lambda x: "" if isinstance(x, str) else next(iter(x)),
)
def test_another_config(run_copy, change, message):
    with pytest.raises(CheckpointError, match=f"is from another config: {message}"):
        resume(run_copy, toy.CONFIG.model_copy(update=change))


def test_what_changes_no_number_may_change(run_copy):
    free = toy.CONFIG.model_copy(update={"save_every": 2, "log_every": 1, "cache_gb": 0.0})
    assert resume(run_copy, free).steps == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": ("none", "flu", "cold"), "rare": ()},
            r"classes\[2\] is tb in the checkpoint and cold now",
        ),
        (
            {"modalities": (*toy.TASK.modalities, Modality("ct", "image", shape=(1, 2, 2)))},
            r"modalities is \['xray', 'labs', 'genes'\] in the checkpoint and \[.*'ct'\] now",
        ),
        (
            {"modalities": (*toy.TASK.modalities[:2], Modality("genes", "values", fields=(Field("snp"),)))},
            r"modalities\[2\]\.fields\[0\]\.categories is \['aa', 'ab', 'bb'\] in the checkpoint and \[\]",
        ),
    ],
    ids=["class", "modality", "field"],
)
def test_another_task(run_copy, change, message):
    model = toy.Toy(dataclasses.replace(toy.TASK, **change))
    with pytest.raises(CheckpointError, match=f"is of other data: task\\.{message}"):
        resume(run_copy, model=model)


def test_other_patients(run_copy):
    with pytest.raises(
        CheckpointError, match=r"is of other data: patients is 93 patients, digest .* and 50 patients, digest"
    ):
        resume(run_copy, patients=toy.make_patients(50))


def test_another_model(run_copy):
    with pytest.raises(
        CheckpointError, match=r"weight 'encoders\.linear\.0\.bias' is \[5\], Toy expects \[7\]"
    ):
        resume(run_copy, model=toy.Toy(d=7))
    with pytest.raises(CheckpointError, match=r"has no weight 'bias', which Linear expects"):
        load_weights(nn.Linear(2, 3), {"weight": torch.zeros(3, 2)}, run_copy)
    with pytest.raises(CheckpointError, match=r"has a weight 'bias', unknown to Linear"):
        load_weights(nn.Linear(2, 3, bias=False), nn.Linear(2, 3).state_dict(), run_copy)


def test_a_number_is_a_list_of_one(run_copy):
    """Runs from before KnowledgeAttention's strength was [1] still load."""
    layer = nn.Linear(1, 1)
    load_weights(layer, {"weight": torch.tensor(3.0), "bias": torch.tensor([[2.0]])}, run_copy)
    assert (layer.weight.item(), layer.bias.item()) == (3.0, 2.0)


def test_a_full_disk_leaves_the_previous_checkpoint(run_copy, monkeypatch):
    before = (run_copy / LAST).read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"cannot write .*safetensors: No space left on device; the previous one there"
    ):
        resume(run_copy)
    assert (run_copy / LAST).read_bytes() == before
    assert not list(run_copy.glob("*.partial"))
    monkeypatch.undo()
    assert resume(run_copy).steps == 18  # and the run goes on from it


def test_a_file_that_the_system_refuses_to_let_grow(tmp_path):
    """The same with a real failing write: the kernel's limit on the size of files."""
    path = tmp_path / LAST
    save_checkpoint(path, {"model.a": torch.zeros(10)}, state(step=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large; the previous one there is intact"):
            save_checkpoint(path, {"model.a": torch.zeros(10_000)}, state(step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path).step == 1
    with pytest.raises(CheckpointError, match="File exists; there is none yet"):
        save_checkpoint(path / LAST, {"model.a": torch.zeros(3)}, state())  # a file is no folder
