"""RobustMDiff itself, and a baseline, through the trainer: resumed and in parts, the same numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from robustmdiff.baselines.dropout_transformer import DropoutTransformer
from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.collate import Collator
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.train import train
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.training.config import TrainConfig

SMALL = ModelConfig(
    d_h=8, layers=1, heads=2, patch=8, width=16, depth=1, T=50, steps=2, draws=2, dropout=0.0, max_tokens=24
)
CONFIG = TrainConfig(epochs=2, batch_size=13, learning_rate=0.005, log_every=2, lambda_find=0.5)


@pytest.fixture(scope="module")
def study():
    cohort = make_cohort(CohortConfig(patients=60, image_size=16, missingness="mcar", rate=0.3))
    patients = list(cohort.patients)
    texts = [v for p in patients for v in p.modalities.values() if isinstance(v, str)]
    tokenizer = train_tokenizer(texts, vocab_size=200)
    sizes = dataclasses.replace(SMALL, vocabulary=tokenizer.get_vocab_size())
    return cohort, patients, Collator(cohort.task, tokenizer, SMALL.max_tokens), sizes


def make_model(kind: type, study, **sizes):
    cohort, _, _, config = study
    config = dataclasses.replace(config, **sizes)
    torch.manual_seed(3)
    if kind is RobustMDiff:
        return RobustMDiff(cohort.task, config, cohort.concepts(), denoiser=True)
    return kind(cohort.task, config)


def rows(out_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", [RobustMDiff, DropoutTransformer], ids=lambda kind: kind.__name__)
def test_a_run_cut_off_and_resumed_is_the_same(kind, study, tmp_path, monkeypatch):
    _, patients, collator, _ = study
    arguments = (patients[:40], patients[40:], collator, CONFIG)
    whole = train(make_model(kind, study, dropout=0.2), *arguments, tmp_path / "whole")

    broken = make_model(kind, study, dropout=0.2)
    after_step, count = broken.after_step, iter(range(100))

    def break_off() -> None:
        if next(count) == 4:
            raise KeyboardInterrupt
        after_step()

    monkeypatch.setattr(broken, "after_step", break_off)
    with pytest.raises(KeyboardInterrupt):
        train(broken, *arguments, tmp_path / "parts")
    model = make_model(kind, study, dropout=0.2)
    resumed = train(model, *arguments, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", [RobustMDiff, DropoutTransformer], ids=lambda kind: kind.__name__)
def test_a_batch_in_parts_has_the_same_losses(kind, study, tmp_path):
    """The first step, before differences in rounding grow; what several processes do to a batch is
    the same, dropout included."""
    _, patients, collator, _ = study
    first = []
    for accumulate in (1, 3):
        config = CONFIG.model_copy(update={"accumulate": accumulate, "epochs": 1})
        out_dir = tmp_path / str(accumulate)
        train(make_model(kind, study, dropout=0.2), patients[:40], [], collator, config, out_dir)
        first.append(rows(out_dir)[0])
    for name in ("class", "diff", "cons", "find"):
        assert first[1][name] == pytest.approx(first[0][name], rel=1e-5), name
