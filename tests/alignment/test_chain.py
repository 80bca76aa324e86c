"""Links in order, each of which trains what is new alone, and goes on where it was stopped."""

import json
from dataclasses import replace

import pytest
import torch

from robustmdiff.alignment.chain import align
from robustmdiff.alignment.link import Link
from robustmdiff.alignment.pretrained import load_prompts
from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import LAST, CheckpointError, load_checkpoint

LINKS = [Link("text", "xray"), Link("text", "ct"), Link("ct", "mri")]
FOLDERS = ["text-xray", "text-ct", "ct-mri"]


@pytest.fixture(scope="module")
def chain(whole, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("chain")
    return align(whole.task, LINKS, whole.patients, config, out, tokenizer=whole.tokenizer), out


def weights(model, name):
    return {k: v for k, v in model.state_dict().items() if name in k.split(".")}


def lines(out, link):
    path = out / "links" / link / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_link_leaves_encoders_that_work_alone(chain, whole):
    model, out = chain
    expected = [{"text", "xray"}, {"text", "xray", "ct"}, {"text", "xray", "ct", "mri"}]
    for folder, names in zip(FOLDERS, expected, strict=True):
        loaded, tokenizer = load_prompts(out / "links" / folder / "model")
        assert set(loaded.names) == names
        h, m = loaded.embed(whole.patients, tokenizer)
        known = [name in names for name in whole.task.modality_names]
        assert m.all(0).tolist() == known
        assert torch.equal(h, model.embed(whole.patients, tokenizer).h * torch.tensor(known)[:, None])
    assert not model.training


def test_earlier_encoders_are_frozen_to_the_bit(chain):
    model, out = chain
    for k, folder in enumerate(FOLDERS):
        earlier = load_prompts(out / "links" / folder / "model")[0]
        for name in {name for link in LINKS[: k + 1] for name in link}:
            mine = weights(model, name)
            assert mine
            for key, value in weights(earlier, name).items():
                assert torch.equal(value, mine[key]), (folder, key)


def test_a_link_trains_and_keeps_what_is_new_alone(chain):
    _, out = chain
    for folder, new in zip(FOLDERS, [{"text", "xray"}, {"ct"}, {"mri"}], strict=True):
        tensors = load_checkpoint(out / "links" / folder / LAST).tensors
        named = {
            key.split("prompts.project.")[1].split(".")[0] for key in tensors if "prompts.project." in key
        }
        assert named == new
        moved = [v.abs().max() for key, v in tensors.items() if key.startswith("optimizer.exp_avg.prompts")]
        assert moved
        assert all(x > 0 for x in moved)


def test_the_first_link_is_longer_and_every_term_is_told(chain):
    _, out = chain
    steps = [len(lines(out, folder)) for folder in FOLDERS]
    assert steps == [3 * 2 * 2, 3 * 2, 3 * 2]  # 13 patients in batches of 4 and 5; first = 2, epochs = 2
    for folder in FOLDERS:
        for row in lines(out, folder):
            assert row["loss"] == pytest.approx(row["contrast"] + 0.02 * row["invariant"], rel=1e-5)
            assert row["invariant"] > 0


def test_without_the_invariant_there_is_one_view(whole, config, tmp_path):
    plain = config.model_copy(update={"lambda_vi": 0.0})
    align(whole.task, LINKS[:1], whole.patients, plain, tmp_path, tokenizer=whole.tokenizer)
    assert all(row["loss"] == row["contrast"] for row in lines(tmp_path, "text-xray"))
    assert "invariant" not in lines(tmp_path, "text-xray")[0]


def test_links_of_no_images_need_no_views(whole, config, tmp_path):
    links = [Link("text", "structured"), Link("structured", "genomic")]
    model = align(whole.task, links, whole.patients, config, tmp_path, tokenizer=whole.tokenizer)
    assert set(model.names) == {"text", "structured", "genomic"}
    panel = model.encoders.encoders["structured"]
    assert panel.centre.any()  # it has met the training patients


def test_it_learns(whole, config, tmp_path):
    """13 patients by heart: the loss leaves ln 5, chance in batches of 5, far behind."""
    longer = config.model_copy(update={"epochs": 100, "learning_rate": 1e-2, "lambda_vi": 0.0, "first": 1})
    link = Link("text", "structured")
    align(whole.task, [link], whole.patients, longer, tmp_path, tokenizer=whole.tokenizer)
    assert sum(row["contrast"] for row in lines(tmp_path, "text-structured")[-6:]) / 6 < 0.8


def test_a_further_modality_joins_and_nothing_else_is_retrained(chain, whole, config, tmp_path):
    """As a fifth would: a task that has one more, one link."""
    model, _ = chain
    mri = whole.task.modality("mri")
    task = replace(whole.task, modalities=(*whole.task.modalities, replace(mri, name="fifth")))
    patients = [
        replace(p, modalities={**p.modalities, "fifth": p.modalities["mri"] * 0.5}) for p in whole.patients
    ]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wider = align(
        task, [Link("mri", "fifth")], patients, config, tmp_path, known=model, tokenizer=whole.tokenizer
    )
    assert set(wider.names) == {*model.names, "fifth"}
    assert all(torch.equal(wider.state_dict()[k], v) for k, v in before.items())
    assert len(lines(tmp_path, "mri-fifth")) == 6
    h, m = wider.embed(patients, whole.tokenizer)
    assert m[:, -1].all()
    assert torch.equal(h[:, :6], model.embed(whole.patients, whole.tokenizer).h)


def run(out, resume, whole, config):
    return align(whole.task, LINKS[:2], whole.patients, config, out, tokenizer=whole.tokenizer, resume=resume)


@pytest.mark.parametrize("stopped_in", ["text-xray", "text-ct"])
def test_it_resumes_to_the_bit(chain, whole, config, tmp_path, monkeypatch, stopped_in):
    from robustmdiff.training.loop import Loop

    class Killed(Exception):
        pass

    step = Loop._step

    def dies(loop, interrupt):
        if loop.out_dir.name == stopped_in and loop.step == 4:
            raise Killed
        return step(loop, interrupt)

    monkeypatch.setattr(Loop, "_step", dies)
    with pytest.raises(Killed):
        run(tmp_path, False, whole, config)
    monkeypatch.undo()
    again = run(tmp_path, True, whole, config)
    for key, value in again.state_dict().items():
        assert torch.equal(value, chain[0].state_dict()[key]), key
    for link in FOLDERS[:2]:
        assert lines(tmp_path, link) == lines(chain[1], link)


def test_a_finished_run_is_not_overwritten(chain, whole, config):
    with pytest.raises(CheckpointError, match=r"text-xray.*exists: resume that run, or train into another"):
        run(chain[1], False, whole, config)


def test_another_first_link_is_not_gone_on_from(chain, whole, config, tmp_path):
    """What the second link was trained towards is part of what it is."""
    import shutil

    shutil.copytree(chain[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "links" / "text-xray")
    (first,) = LINKS[:1]
    other = config.model_copy(update={"learning_rate": 1e-2})
    known = align(whole.task, [first], whole.patients, other, tmp_path / "o", tokenizer=whole.tokenizer)
    with pytest.raises(
        CheckpointError, match=r"is of other data: known is \w+ in the checkpoint and \w+ now"
    ):
        align(
            whole.task,
            LINKS[1:2],
            whole.patients,
            config,
            tmp_path / "run",
            known=known,
            tokenizer=whole.tokenizer,
            resume=True,
        )


@pytest.mark.parametrize(
    ("links", "says"),
    [
        ([], "links are none, expected at least one"),
        ([Link("text", "x-ray")], r"link text-x-ray: unknown modality 'x-ray'"),
        ([Link("text", "text")], r"link text-text: its two ends are the same"),
        ([Link("text", "xray"), Link("ct", "mri")], r"link ct-mri: neither is aligned before it"),
        ([Link("text", "xray"), Link("xray", "text")], r"link xray-text: both are aligned before it"),
    ],
)
def test_what_is_no_chain_is_refused_before_anything_trains(whole, config, tmp_path, links, says):
    with pytest.raises(Refusal, match=says):
        align(whole.task, links, whole.patients, config, tmp_path / "new", tokenizer=whole.tokenizer)
    assert not (tmp_path / "new").exists()


def test_pairs_that_do_not_match_are_refused(whole, config, tmp_path):
    """Nobody has both, or one patient, who has nobody to be told from."""
    half = [
        replace(p, modalities={("text", "xray")[i % 2]: p.modalities[("text", "xray")[i % 2]]})
        for i, p in enumerate(whole.patients)
    ]
    says = r"link text-xray: 0 of 13 patients have both \(7 have 'text', 6 have 'xray'\), expected at least 2"
    with pytest.raises(Refusal, match=says):
        align(whole.task, LINKS[:1], half, config, tmp_path, tokenizer=whole.tokenizer)
    with pytest.raises(Refusal, match=r"1 of 13 patients have both"):
        align(
            whole.task, LINKS[:1], [*half[1:], whole.patients[0]], config, tmp_path, tokenizer=whole.tokenizer
        )


def test_a_batch_of_one_is_refused(whole, config, tmp_path):
    alone = config.model_copy(update={"batch_size": 1})
    with pytest.raises(Refusal, match=r"13 patients in 13 steps has 1, expected at least 2"):
        align(whole.task, LINKS[:1], whole.patients, alone, tmp_path, tokenizer=whole.tokenizer)


def test_encoders_of_other_sizes_cannot_be_added_to(whole, config, tmp_path):
    known = PromptEncoders(whole.task, replace(config.model, layers=2), d=5, only=("text", "xray"))
    with pytest.raises(Refusal, match=r"config is .*layers=1.*expected .*layers=2"):
        align(
            whole.task, LINKS[1:2], whole.patients, config, tmp_path, known=known, tokenizer=whole.tokenizer
        )


def test_parts_of_a_batch_are_no_contrast(config):
    from robustmdiff.alignment.config import AlignConfig
    from robustmdiff.training.config import ConfigError, read_config

    with pytest.raises(ConfigError, match=r"accumulate is 2, expected 1"):
        read_config(AlignConfig, {"accumulate": 2, "batch_size": 8}, "config")
