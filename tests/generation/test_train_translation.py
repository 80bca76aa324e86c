"""Training of a translation: what is learned, who is asked for what, how a stopped run goes on."""

import itertools
import json
import shutil

import pytest
import torch

from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.generation.train_translation import (
    FlowObjective,
    TranslationConfig,
    ask,
    teaching,
    train_translation,
)
from robustmdiff.generation.translation import Packed, Translation
from robustmdiff.ops import philox_key
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError, load_checkpoint, load_weights
from robustmdiff.training.interrupt import Interrupted
from robustmdiff.training.loop import Loop
from tests.generation.world import NOISE, draw_images, new_draft

CONFIG = TranslationConfig(
    epochs=6, batch_size=8, learning_rate=0.01, ema_decay=0.9, steps=1, p_hidden=0.3, save_every=5, seed=2
)


def train(out_dir, resume=False, config=CONFIG, valid=10):
    torch.manual_seed(4)
    translation = Translation(new_draft(), widths=(8, 16))
    rows = [translation.draft.pack(draw_images(n, seed)) for n, seed in ((40, 0), (valid, 1))]
    return train_translation(translation, *rows, config, out_dir, resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("finished")
    return train(out_dir), out_dir


def test_both_stages_learn(finished):
    translation, out_dir = finished
    for stage, term, share in (("draft", "error", 0.8), ("flow", "flow", 0.98)):
        rows = [
            json.loads(row)
            for row in (out_dir / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        losses = [row[term] for row in rows if "loss" in row]
        assert len(losses) == 30
        assert sum(losses[-5:]) < share * sum(losses[:5]), stage
    images = draw_images(30, seed=3)
    truth, guess = images.pop("PDw"), translation.mean(images, "PDw")
    assert (truth - guess).square().mean() < 0.6 * (truth - truth.mean(0)).square().mean()


def test_draws_vary_where_the_draft_is_unsure(finished):
    """The width is fitted to ten frames that nobody learned from; of thirty others the spread is right within
    a third, which is what ten frames can promise. Noise of NOISE^2 is what nobody can know."""
    translation, _ = finished
    images = draw_images(30, seed=3)
    truth = images.pop("PDw")
    draws = translation.sample(images, "PDw", draws=8, steps=1, key=philox_key(1))
    ratio = 9 / 8 * draws.var(1).mean() / (draws.mean(1) - truth).square().mean()
    assert 2 / 3 < ratio < 1.5
    assert draws.var(1).mean() > NOISE**2


def test_each_stage_leaves_a_checkpoint_that_works_alone(finished):
    translation, out_dir = finished
    images = draw_images(3, seed=5)
    draft, whole = new_draft(), Translation(new_draft(), widths=(8, 16))
    for model, stage in ((draft, "draft"), (whole, "flow")):
        best = load_checkpoint(out_dir / stage)
        load_weights(model, best.weights, best.path)
    assert torch.equal(draft.mean(images, "PDw"), translation.mean(images, "PDw"))
    drawn = {"draws": 2, "steps": 2, "key": philox_key(3)}
    assert torch.equal(whole.sample(images, "PDw", **drawn), translation.sample(images, "PDw", **drawn))
    assert load_checkpoint(out_dir / "flow").metrics.keys() == {"error", "spread_over_skill", "of_width_1"}


@pytest.mark.parametrize(("stage", "after"), [("draft", 7), ("flow", 12)])
def test_it_is_stopped_and_resumes_to_the_bit(finished, tmp_path, monkeypatch, stage, after):
    expected, out_dir = finished
    step = Loop._step

    def stopping(self, interrupt):
        stop = step(self, interrupt)
        return 2 if self.step == after and self.out_dir.name == stage else stop

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stopping)
        with pytest.raises(Interrupted):
            train(tmp_path)
    again = train(tmp_path, resume=True)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for each in ("draft", "flow"):
        lines = [
            (folder / each / "metrics.jsonl").read_text(encoding="utf-8") for folder in (out_dir, tmp_path)
        ]
        assert lines[0] == lines[1]


def test_between_the_stages_it_resumes_too(finished, tmp_path):
    expected, out_dir = finished
    shutil.copytree(out_dir / "draft", tmp_path / "draft")
    again = train(tmp_path, resume=True)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_finished_run_is_not_trained_over_and_not_with_another_config(finished):
    _, out_dir = finished
    with pytest.raises(CheckpointError, match="exists: resume that run, or train into another folder"):
        train(out_dir)
    with pytest.raises(CheckpointError, match=r"p_hidden is 0\.3 in the checkpoint and 0\.5 now"):
        train(out_dir, resume=True, config=CONFIG.model_copy(update={"p_hidden": 0.5}))


def test_without_frames_to_watch_the_width_stays_1(tmp_path):
    translation = train(tmp_path, valid=0, config=CONFIG.model_copy(update={"epochs": 1}))
    assert torch.equal(translation.flow.width, torch.ones(16))


def noise_of(n: int, step: int = 0) -> PatientNoise:
    return PatientNoise(torch.arange(n), torch.tensor(step))


def test_every_target_and_every_subset_is_asked_for():
    draft = new_draft(("T1w", "T2w", "PDw"))
    n = 2000
    packed = Packed(torch.zeros(n, 48, 4, 4), torch.ones(n, 3, dtype=torch.bool))
    shown, to = ask(packed, draft, noise_of(n), p_hidden=0.5)
    assert not shown.present[torch.arange(n), to].any()
    counts = {}
    for target, row in zip(to.tolist(), shown.present.tolist(), strict=True):
        counts[target, tuple(row)] = counts.get((target, tuple(row)), 0) + 1
    # a target with 1/3; both others with 1/2 + 1/4, one alone with 1/8 each; sd at most .0097
    for target in range(3):
        for row in itertools.product((False, True), repeat=3):
            if row[target] or not any(row):
                assert (target, row) not in counts
            else:
                expected = (0.75 if sum(row) == 2 else 0.125) / 3
                assert counts[target, row] / n == pytest.approx(expected, abs=0.04), (target, row)


def test_only_what_a_patient_has_is_asked_for_and_shown():
    draft = new_draft(("T1w", "PDw"))
    n = 300
    present = torch.tensor([[True, True, False], [False, True, True], [True, False, True]]).repeat(n // 3, 1)
    shown, to = ask(Packed(torch.zeros(n, 48, 4, 4), present), draft, noise_of(n), p_hidden=1.0)
    assert present[torch.arange(n), torch.tensor([0, 2])[to]].all()
    assert torch.equal(shown.present & present, shown.present)
    assert (shown.present.sum(1) == 1).all()


def test_what_is_asked_depends_on_the_row_and_the_step_alone():
    draft = new_draft(("T1w", "T2w", "PDw"))
    packed = Packed(torch.zeros(20, 48, 4, 4), torch.ones(20, 3, dtype=torch.bool))
    shown, to = ask(packed, draft, noise_of(20), p_hidden=0.5)
    half = Packed(packed.z[10:], packed.present[10:])
    again, same = ask(half, draft, PatientNoise(torch.arange(10, 20), torch.tensor(0)), p_hidden=0.5)
    assert torch.equal(same, to[10:])
    assert torch.equal(again.present, shown.present[10:])
    other, _ = ask(packed, draft, noise_of(20, step=1), p_hidden=0.5)
    assert not torch.equal(other.present, shown.present)


def test_frames_that_teach_nothing_are_left_out_and_refused_where_there_are_no_others(tmp_path):
    draft = new_draft()
    present = torch.tensor(
        [[True, True, True], [True, True, False], [False, False, True], [True, False, True]]
    )
    packed = Packed(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 48, 4, 4), present)
    assert teaching(packed, draft).z[:, 0, 0, 0].tolist() == [0, 3]
    nothing = Packed(packed.z, present & torch.tensor([True, True, False]))
    with pytest.raises(Refusal, match=r"of 4 frames none has a target \(PDw\) and another series"):
        train_translation(Translation(draft, widths=(8, 16)), nothing, nothing, CONFIG, tmp_path)


def test_the_draft_is_not_trained_with_the_flow():
    translation = Translation(new_draft(), widths=(8, 16))
    objective = FlowObjective(translation, CONFIG)
    packed = translation.draft.pack(draw_images(4))
    objective(packed.z, packed.present, torch.arange(4))[0].backward()
    assert all(p.grad is None for p in translation.draft.parameters())
    assert all(p.grad is not None for p in translation.flow.network.leave.parameters())
