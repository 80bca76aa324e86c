"""Two processes (gloo) and one, with the same global batch, give the same loss curve."""

from __future__ import annotations

import functools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy

from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.collate import Collator
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.train import train
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.models import MODELS
from robustmdiff.training.checkpoint import load_checkpoint
from robustmdiff.training.config import TrainConfig


def one_of_many(out_dir: Path, accumulate: int) -> None:
    torch.manual_seed(5)
    config = toy.CONFIG.model_copy(update={"accumulate": accumulate})
    toy.run(out_dir, config, model=toy.Toy(dropout=0.2))
    if "WORLD_SIZE" in os.environ:
        assert torch.distributed.get_world_size() == int(os.environ["WORLD_SIZE"])


def train_on_cohort(kind: str, out_dir: Path, accumulate: int) -> None:
    """A model with dropout in its encoders and after them, on patients who lack a third of their
    modalities; concepts are known by their names, which the text encoder reads."""
    cohort = make_cohort(CohortConfig(patients=60, image_size=16, missingness="mcar", rate=0.3))
    patients = list(cohort.patients)
    tokenizer = train_tokenizer(
        (str(p.modalities["text"]) for p in patients if p.has("text")), vocab_size=200
    )
    sizes = {"d_h": 8, "layers": 1, "heads": 2, "patch": 8, "width": 16, "depth": 1, "T": 50, "steps": 2}
    config = ModelConfig(**sizes, draws=2, dropout=0.2, vocabulary=tokenizer.get_vocab_size())
    torch.manual_seed(5)
    model = MODELS[kind].build(cohort.task, config, concepts=cohort.concepts(), tokenizer=tokenizer)
    budget = TrainConfig(
        epochs=2,
        batch_size=13,
        learning_rate=0.005,
        log_every=2,
        accumulate=accumulate,
    )
    train(model, patients[:40], patients[40:], Collator(cohort.task, tokenizer), budget, out_dir)


def together(target: Callable[[Path, int], None], out_dir: Path, world: int, accumulate: int) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"LOCAL_WORLD_SIZE": str(world)}  # as torchrun and accelerate launch do
    errors = [out_dir.with_suffix(f".err{rank}") for rank in range(world)]
    processes = [
        toy.start(
            target,
            out_dir,
            accumulate,
            stderr=errors[rank],
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **shared,
        )
        for rank in range(world)
    ]
    for process, error in zip(processes, errors, strict=True):
        process.join(120)
        assert process.exitcode == 0, error.read_text(encoding="utf-8")


def rows(out_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one(tmp_path, accumulate):
    """93 patients in batches of 15 and 16, so the processes' shares differ in size too. The order of
    float32 sums differs, which moved 18 steps' losses by 2e-7 of their value when measured."""
    one_of_many(tmp_path / "one", 1)
    together(one_of_many, tmp_path / "two", 2, accumulate)
    a, b = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(a) == len(b) == 21
    for x, y in zip(a, b, strict=True):
        assert y == pytest.approx(x, rel=2e-6), x["step"]
    a, b = (load_checkpoint(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in a.tensors.items():
        torch.testing.assert_close(b.tensors[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["robustmdiff", "dropout_transformer"])
def test_two_processes_train_a_model_as_one_does(kind, tmp_path):
    """Masks, noise, dropout and weights belong to the patient, not to the process."""
    target = functools.partial(train_on_cohort, kind)
    target(tmp_path / "one", 1)
    together(target, tmp_path / "two", 2, 1)
    for x, y in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert y == pytest.approx(x, rel=2e-6), x["step"]  # 9.4e-7 when measured
