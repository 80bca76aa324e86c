"""What a generator has aligned is where a diagnosis model may start."""

from __future__ import annotations

import pytest
import torch

from robustmdiff.alignment.pretrained import load_prompts
from robustmdiff.experiment.fit import build_model, train_run
from robustmdiff.experiment.studies import load_study
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import make_config
from tests.generation.conftest import SOURCE, TINY

CONFIG = make_config(
    {
        "epochs": 1,
        "forecast": "none",
        "model": {**TINY["align"]["model"], "width": 12, "depth": 1, "steps": 2, "draws": 2},
    }
)


@pytest.fixture(scope="module")
def study():
    return load_study(SOURCE)


@pytest.mark.parametrize("where", ["links/xray-ct/model", "model/prompts"])
def test_a_diagnosis_starts_from_a_generators_encoders(study, tiny_run, where):
    """Of the modalities that both have: to the generator each contrast of the MRI is one of its own."""
    prompts, tokenizer = load_prompts(tiny_run / where)
    model, collator, config = build_model(study, CONFIG, "robustmdiff", {}, tiny_run / where)
    assert collator.tokenizer.to_str() == tokenizer.to_str()
    assert config.model.vocabulary == tokenizer.get_vocab_size()
    own = model.encoders.encoders
    shared = set(own) & set(prompts.names)
    assert shared == {"text", "xray", "ct"}
    for name in shared:
        for key, value in prompts.encoders.encoders[name].state_dict().items():
            assert torch.equal(own[name].state_dict()[key], value), (name, key)


def test_it_is_trained_and_loaded_as_any_run(study, tiny_run, tmp_path):
    run = train_run(study, CONFIG, tmp_path / "run", aligned=tiny_run / "links" / "xray-ct" / "model")
    batch = run.collator(study.patients["test"])
    p = run.model.diagnose(run.model.encode(batch)).probability
    torch.testing.assert_close(p.sum(1), torch.ones(12))


def test_another_width_is_refused(study, tiny_run):
    model = CONFIG.model.__class__(**{**CONFIG.model.__dict__, "d_h": 8})
    wider = CONFIG.model_copy(update={"model": model})
    with pytest.raises(Refusal, match="expected aligned encoders of the sizes of this model"):
        build_model(study, wider, "robustmdiff", {}, tiny_run / "links" / "xray-ct" / "model")
