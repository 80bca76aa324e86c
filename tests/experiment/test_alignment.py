import pytest
import torch

from robustmdiff.alignment.config import AlignConfig
from robustmdiff.alignment.link import Link
from robustmdiff.alignment.pretrained import load_prompts, save_prompts
from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.data.cohort import CohortConfig, make_cohort
from robustmdiff.data.series import split_channels
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.experiment.alignment import distance, growing_table
from robustmdiff.experiment.fit import build_model, train_run
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import load_study
from robustmdiff.refusal import Refusal
from tests.experiment.small_run import CONFIG, MODEL, OPTIONS, cache  # noqa: F401

EIGHT = [
    Link("text", "xray"),
    Link("text", "ct"),
    Link("ct", "mri_T1w"),
    Link("mri_T1w", "mri_T2w"),
    Link("mri_T2w", "mri_PDw"),
    Link("text", "structured"),
    Link("structured", "genomic"),
]


def test_the_distance_is_the_number_of_links_between():
    assert distance(EIGHT, "text", "ct") == distance(EIGHT, "ct", "text") == 1
    assert distance(EIGHT, "xray", "mri_T2w") == 4
    assert distance(EIGHT, "genomic", "mri_PDw") == 6
    with pytest.raises(ValueError, match="'ecg' is not linked to 'text' by"):
        distance(EIGHT, "text", "ecg")


def test_eight_modalities_join_one_by_one(cache, tmp_path):  # noqa: F811
    """Pairs of what was aligned before keep their rows to the bit: nothing is retrained."""
    cohort = make_cohort(CohortConfig(patients=12, image_size=16))
    task, patients = split_channels(cohort.task, cohort.patients, "mri")
    tokenizer = train_tokenizer([p.modalities["text"] for p in patients], 150)
    sizes = EncoderConfig(d_h=8, layers=1, heads=2, patch=8, max_tokens=33, vocabulary=150)
    config = AlignConfig(model=sizes, d=5, epochs=1, batch_size=4, first=1, lambda_vi=0)
    parts = {"train": [patients[i] for i in range(8)], "test": [patients[i] for i in range(8, 12)]}
    rows = growing_table(task, EIGHT, parts, config, tmp_path, tokenizer=tokenizer)
    assert [sum(row["modalities"] == k for row in rows) for k in range(2, 9)] == [1, 3, 6, 10, 15, 21, 28]
    last = {row["pair"]: row for row in rows if row["modalities"] == 8}
    assert sum(row["links"] == 1 for row in last.values()) == 7
    for row in rows:
        assert row == {**last[row["pair"]], "modalities": row["modalities"]}
        assert row["patients"] == 4
        assert row["chance R@1"] == 1 / 4
        assert 0 <= row["R@1"] <= row["R@10"] == 1


@pytest.fixture(scope="module")
def aligned(cache, tmp_path_factory):  # noqa: F811
    """Encoders of a study's sizes, and its tokenizer."""
    study = load_study(Source("cohort", options=OPTIONS))
    _, collator, config = build_model(study, CONFIG, "robustmdiff", {})
    sizes = EncoderConfig(**{f: getattr(config.model, f) for f in EncoderConfig.__dataclass_fields__})
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("aligned")
    save_prompts(PromptEncoders(study.task, sizes, only=("text", "xray", "ct")), folder, collator.tokenizer)
    return study, folder


def test_a_model_is_built_on_aligned_encoders_and_their_words(aligned):
    study, folder = aligned
    prompts, tokenizer = load_prompts(folder)
    model, collator, config = build_model(study, CONFIG, "robustmdiff", {}, folder)
    assert isinstance(model, RobustMDiff)
    assert config.model.vocabulary == tokenizer.get_vocab_size()
    assert collator.tokenizer.to_str() == tokenizer.to_str()
    for name in ("text", "xray", "ct"):
        for key, value in prompts.encoders.encoders[name].state_dict().items():
            assert torch.equal(model.encoders.encoders[name].state_dict()[key], value), (name, key)
    plain, _, _ = build_model(study, CONFIG, "robustmdiff", {})
    rest = {k: v for k, v in plain.state_dict().items() if ".mri." in k or k.startswith("head")}
    assert rest
    assert all(torch.equal(model.state_dict()[k], v) for k, v in rest.items())


def test_a_run_starts_from_them(aligned, tmp_path):
    study, folder = aligned
    run = train_run(study, CONFIG, tmp_path / "run", kind="late_fusion", aligned=folder)
    assert run.model.encoders is not None


def test_encoders_of_other_sizes_are_refused(aligned, tmp_path):
    study, folder = aligned
    wider = CONFIG.model_copy(update={"model": MODEL.__class__(**{**MODEL.__dict__, "d_h": 16})})
    with pytest.raises(Refusal, match="expected aligned encoders of the sizes of this model"):
        build_model(study, wider, "robustmdiff", {}, folder)
