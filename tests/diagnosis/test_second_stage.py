from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustmdiff.diagnosis.latents import fit_second_stage, pairs_of
from robustmdiff.diagnosis.pretrained import save_pretrained
from robustmdiff.diagnosis.second_stage import (
    SecondStage,
    mean_change,
    of_everything,
    with_lent,
)
from robustmdiff.diagnosis.width import SPREAD
from robustmdiff.forecast import fitting
from robustmdiff.models import load_model
from robustmdiff.ops import philox_key


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    fit = fitting.fit
    for module in ("gaussian", "flow", "head"):
        monkeypatch.setattr(
            f"robustmdiff.forecast.{module}.fit", lambda *a, **k: fit(*a, **{**k, "steps": 20})
        )


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
@pytest.mark.parametrize("multilabel", [False, True], ids=["one-label", "many-labels"])
def test_a_model_imagines_with_its_second_stage(kind, multilabel, make_study, tmp_path):
    study = make_study(multilabel=multilabel, missingness="mcar", rate=0.4)
    model = study.model(denoiser=False)
    encoded = model.encode(study.collator(study.patients))
    direct = model.diagnose(encoded)
    assert direct.draws is None  # there is nothing to imagine with
    fit_second_stage(model, study.patients[:10], study.patients[10:], study.collator, kind, 0, tmp_path)
    found = model.diagnose(encoded, draws=6)
    assert found.draws.shape == (6, 13, 12)
    assert found.probability.isfinite().all()
    everything = encoded.m.all(1)
    view = torch.ones_like(encoded.m)
    y = model.imagine(encoded, view=view, draws=6)
    assert y.shape == (13, 6, 54)
    assert not torch.equal(y[~everything, 0], y[~everything, 1])
    nothing_more = model.imagine(encoded, view=encoded.m, draws=6)
    torch.testing.assert_close(nothing_more, model.seen(encoded).y[:, None].expand(-1, 6, -1), rtol=0, atol=0)


def test_a_finished_second_stage_is_kept_and_one_that_is_not_starts_again(study, model, tmp_path):
    fit_second_stage(model, study.patients[:10], study.patients[10:], study.collator, "flow", 0, tmp_path)
    first = {name: value.clone() for name, value in model.second_stage.state_dict().items()}
    again = study.model()
    fit_second_stage(again, [], [], study.collator, "flow", 1, tmp_path)  # no patients: nothing is learned
    for name, value in again.second_stage.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=0, equal_nan=True)
    (tmp_path / "forecast.safetensors").unlink()  # written last
    fit_second_stage(again, study.patients[:10], study.patients[10:], study.collator, "flow", 0, tmp_path)
    for name, value in again.second_stage.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=0, equal_nan=True)


def test_it_is_saved_with_the_model(study, model, tmp_path):
    fit_second_stage(model, study.patients[:10], study.patients[10:], study.collator, "ddpm", 0, tmp_path)
    save_pretrained(model, tmp_path / "model", kind="robustmdiff", tokenizer=study.tokenizer)
    loaded, _ = load_model(tmp_path / "model")
    encoded = model.encode(study.collator(study.patients))
    expected = model.diagnose(encoded).draws
    assert torch.equal(loaded.diagnose(loaded.encode(study.collator(study.patients))).draws, expected)
    with pytest.raises(ValueError, match="is no second stage of this model"):
        SecondStage.load(tmp_path / "model" / "encoders", model)


def test_those_who_watch_tell_how_sure_to_be(study, model):
    """The model says one class, whoever is asked, and is wrong with most."""
    with torch.no_grad():
        model.prior_shift[0] += 9
    pairs = pairs_of(model, study.patients, study.collator, seed=3, watching=4 * study.patients)
    assert torch.equal(pairs.watching, pairs.patient >= 13)
    stage = SecondStage("flow", model)
    with torch.no_grad():
        sure = stage.expected(model, pairs.seen)
    stage.fit(model, pairs, seed=0)
    with torch.no_grad():
        said = stage.head(pairs.seen, model.logits_from(pairs.seen.y))
        found = stage.expected(model, pairs.seen)
    T = stage.T[pairs.seen.m.sum(1)].float()[:, None]
    torch.testing.assert_close(found, said / T)
    assert (stage.T > 1.2).all()
    watching = pairs.watching & of_everything(pairs)
    surprise = [
        float(model.labels.surprise(logits.softmax(-1), pairs.label, pairs.known)[watching].mean())
        for logits in (sure, said, found)
    ]
    assert surprise[2] < surprise[1] < surprise[0]
    nobody = pairs.take(~pairs.watching)
    stage.fit(model, nobody, seed=0)
    assert (stage.T == 1).all()
    assert float(stage.forecast.spread) == pytest.approx(SPREAD)


def test_those_who_watch_tell_how_far_draws_go(study, model):
    """Of patients whose view says ten times as much as that of those learned from, and as little."""
    pairs = pairs_of(model, study.patients[:10], study.collator, 3, 9 * study.patients[10:])
    change = torch.where(pairs.watching[:, None], pairs.y - pairs.seen.y, 0)
    found = []
    for times in (0.1, 10):
        stage = SecondStage("flow", model)
        stage.fit(
            model, pairs._replace(y=pairs.seen.y + (pairs.y - pairs.seen.y) + (times - 1) * change), seed=0
        )
        found.append(float(stage.forecast.spread))
    assert found[0] < 0.9 * SPREAD
    assert found[1] > 1.1 * SPREAD


def test_stages_of_before_draw_as_far_as_they_did(study, model, tmp_path):
    fit_second_stage(model, study.patients[:10], study.patients[10:], study.collator, "flow", 0, tmp_path)
    weights = load_file(tmp_path / "forecast.safetensors")
    assert weights["forecast.spread"] == model.second_stage.forecast.spread
    save_file(
        {name: x for name, x in weights.items() if name != "forecast.spread"},
        tmp_path / "forecast.safetensors",
    )
    assert float(SecondStage.load(tmp_path, model).forecast.spread) == pytest.approx(1.2)


def test_of_few_patients_others_of_the_class_lend_views(study, model, monkeypatch):
    few = study.patients[:10], study.collator, 3, study.patients[10:]
    pairs = pairs_of(model, *few)
    more = with_lent(model, pairs, philox_key(1))
    own = pairs.take(~pairs.watching)
    assert len(more.y) == len(pairs.y) + len(own.y)
    assert not more.watching[len(pairs.y) :].any()
    lent = more.take(torch.arange(len(more.y)) >= len(pairs.y))
    torch.testing.assert_close(lent.seen.y, own.seen.y, rtol=0, atol=0)
    assert not torch.equal(lent.y, own.y)
    monkeypatch.setattr("robustmdiff.diagnosis.second_stage.FEW", 10)
    assert with_lent(model, pairs, philox_key(1)) is pairs


def test_the_mean_change_of_a_modality_is_what_seeing_it_did(study, model):
    pairs = pairs_of(model, study.patients, study.collator, seed=3)
    change = mean_change(model, pairs)
    moved = (model.probability_from(pairs.y) - pairs.seen.p).abs().sum(1) / 2
    added = pairs.view & ~pairs.seen.m
    for j in range(6):
        rows = added[:, j] & (added.sum(1) == 1)
        torch.testing.assert_close(change[j], moved[rows].mean())
    other = pairs.take(~added[:, 2])
    assert mean_change(model, other).isnan().tolist() == [j == 2 for j in range(6)]


def test_what_a_patient_has_is_everything(study, model):
    pairs = pairs_of(model, study.patients, study.collator, seed=3)
    presence = study.collator(study.patients).presence[pairs.patient]
    assert torch.equal(of_everything(pairs), (pairs.view == presence).all(1))
