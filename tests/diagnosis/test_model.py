from __future__ import annotations

import dataclasses

import pytest
import torch

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.contract import DRAWS, HEAD
from robustmdiff.diagnosis.losses import finding_loss
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.noise import PatientNoise
from robustmdiff.diagnosis.views import fullest, held_by
from robustmdiff.encoders.tensors import tensors
from robustmdiff.forecast.contract import EVIDENCE_LIMIT
from robustmdiff.nn.dropout import patient_numbers


def poison(encoded, mask):
    """NaN in everything that `mask` hides: tokens, summaries, evidence."""
    tokens, H, evidence = encoded.tokens.clone(), encoded.H.clone(), encoded.evidence.clone()
    for b, m in (~mask).nonzero().tolist():
        start, length = encoded.segments[b, m].tolist()
        tokens[start : start + length] = float("nan")
        H[b, m] = evidence[b, m] = float("nan")
    return encoded._replace(tokens=tokens, H=H, evidence=evidence).keep(mask)


def test_what_is_hidden_is_never_read(study, model):
    with torch.no_grad():
        encoded = model.encode(study.collator(study.patients))
    torch.manual_seed(0)
    mask = torch.rand(encoded.m.shape) < 0.5
    clean, dirty = encoded.keep(mask), poison(encoded, mask)
    assert torch.equal(model.diagnose(clean).probability, model.diagnose(dirty).probability)
    gradients = []
    for hidden in (clean, dirty):
        model.zero_grad()
        model.direct(hidden).square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_diagnosis_does_not_depend_on_who_else_is_in_the_batch(study, model):
    together = model.diagnose(model.encode(study.collator(study.patients)), seed=4)
    for b in (0, 5, 12):
        alone = model.diagnose(model.encode(study.collator([study.patients[b]])), seed=4)
        torch.testing.assert_close(alone.draws[:, 0], together.draws[:, b], rtol=1e-3, atol=1e-5)


def test_probabilities_are_the_mean_of_draws_that_the_seed_decides(study, model):
    encoded = model.encode(study.collator(study.patients))
    first, again, other = (model.diagnose(encoded, draws=7, seed=s) for s in (1, 1, 2))
    assert first.draws.shape == (7, 13, len(study.cohort.task.classes))
    torch.testing.assert_close(first.probability, first.draws.mean(0))
    torch.testing.assert_close(first.probability.sum(1), torch.ones(13))
    assert torch.equal(first.draws, again.draws)
    assert not torch.equal(first.draws, other.draws)
    assert ((first.findings >= 0) & (first.findings <= 1)).all()


def test_one_draw_is_refused(study, model):
    with pytest.raises(ValueError, match="draws is 1, expected 0 or at least 2"):
        model.diagnose(model.encode(study.collator(study.patients[:2])), draws=1)


def test_without_draws_a_head_answers(study, model):
    encoded = model.encode(study.collator(study.patients[:4]))
    found = model.diagnose(encoded, draws=0)
    assert (found.answer, found.draws, found.interval()) == (HEAD, None, None)
    assert torch.equal(found.probability[encoded.m.any(1)], model.direct(encoded)[encoded.m.any(1)])


def test_the_head_may_answer_while_the_draws_say_what_could_change(study, model):
    encoded = model.encode(study.collator(study.patients))
    by_draws = model.diagnose(encoded, draws=7, seed=1)
    model.answer = HEAD
    found, alone = model.diagnose(encoded, draws=7, seed=1), model.diagnose(encoded)
    assert torch.equal(found.draws, by_draws.draws)
    assert alone.draws is None
    assert (by_draws.answer, found.answer, alone.answer) == (DRAWS, HEAD, HEAD)
    known = encoded.m.any(1)
    for each in (found, alone):
        assert torch.equal(each.probability[known], model.direct(encoded)[known])
        assert torch.equal(each.findings, alone.findings)
    assert (found.probability - by_draws.probability).abs().max() > 0.01


def test_nothing_known_gives_the_prevalence(study):
    model = RobustMDiff(study.cohort.task, study.config, study.cohort.concepts(), denoiser=True).eval()
    nobody = model.encode(study.collator([Patient("nobody", {})]))
    prevalence = torch.tensor([study.cohort.task.prevalence])
    torch.testing.assert_close(model.direct(nobody), prevalence / prevalence.sum())


def test_nothing_visible_gives_the_prevalence_whatever_was_learned(study, model):
    """To everybody who asks: in the probability and in every draw."""
    with torch.no_grad():
        model.prior_shift += 1.5 * torch.arange(12)
        encoded = model.encode(study.collator([Patient("nobody", {}), *study.patients[:3]]))
    found = model.diagnose(encoded, draws=5)
    prevalence = torch.tensor(study.cohort.task.prevalence)
    assert torch.equal(found.probability[0], prevalence)
    assert torch.equal(found.draws[:, 0], prevalence.expand(5, -1))
    torch.testing.assert_close(found.probability[1:], found.draws[:, 1:].mean(0))
    assert (found.draws[:, 1:].std(0) > 0).any()


@pytest.mark.parametrize("multilabel", [False, True], ids=["one-label", "many-labels"])
def test_every_loss_is_finite_and_every_weight_learns(multilabel, make_study):
    study = make_study(multilabel=multilabel)
    model = study.model().train()
    batch = study.collator(study.patients)
    kept = torch.rand(batch.presence.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    losses = model.losses(model.encode(batch), batch, kept, torch.ones_like(batch.label))
    assert all(loss.isfinite() and loss > 0 for loss in losses)
    sum(losses).backward()
    still = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    probability = model.eval().diagnose(model.encode(batch)).probability
    assert probability.isfinite().all()


def test_unknown_labels_do_not_count(study):
    model = study.model()
    known = study.collator(study.patients[:5])
    strangers = [dataclasses.replace(p, labels={}, findings={}) for p in study.patients[5:]]
    mixed = study.collator(study.patients[:5] + strangers)
    losses = [
        model.losses(model.encode(b), b, torch.ones_like(b.presence), torch.ones_like(b.label))
        for b in (known, mixed)
    ]
    for name in ("L_class", "L_find"):  # means over patients: eight more who say nothing
        before, after = (getattr(each, name) for each in losses)
        torch.testing.assert_close(before * 5 / 13, after, rtol=1e-3, atol=1e-4)


def test_a_batch_of_patients_with_nothing_still_trains(study):
    model = study.model().train()
    batch = study.collator([Patient("a", {}, labels={"no acute disease": True}), Patient("b", {})])
    losses = model.losses(model.encode(batch), batch, batch.presence, torch.ones_like(batch.label))
    sum(losses).backward()
    assert all(loss.isfinite() for loss in losses)
    assert model.integration.prior.grad.isfinite().all()


def test_evidence_learns_from_finding_labels_where_there_are_any(study):
    """The class loss moves evidence only of patients whose findings nobody labelled."""
    bare = [dataclasses.replace(p, findings={}) for p in study.patients]
    for patients, expected in ((study.patients, False), (bare, True)):
        model, batch = study.model(), study.collator(patients)
        seen = torch.ones_like(batch.presence)
        model.losses(model.encode(batch), batch, seen, torch.ones_like(batch.label)).L_class.backward()
        moved = model.evidence.b.grad is not None and bool(model.evidence.b.grad.abs().sum() > 0)
        assert moved is expected


def test_the_diffusion_does_not_train_what_it_reads(study):
    """Left to L_diff, encoders learn to be predictable instead of informative."""
    model, batch = study.model().train(), study.collator(study.patients)
    kept = torch.rand(batch.presence.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    model.losses(model.encode(batch), batch, kept, torch.ones_like(batch.label)).L_diff.backward()
    taught = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {"denoiser"}


def bare_study(study, patients=None, **options):
    """A model of the same task, but without findings, and a batch of the same patients."""
    task = dataclasses.replace(study.cohort.task, findings=(), **options)
    torch.manual_seed(5)
    config = dataclasses.replace(study.config, class_evidence=True)
    model = RobustMDiff(task, config, study.cohort.concepts(), denoiser=True)
    torch.nn.init.normal_(model.evidence.b, std=0.3)
    bare = [dataclasses.replace(p, findings={}) for p in patients or study.patients]
    return model, tensors(Collator(task, study.tokenizer, 33)(bare))


@pytest.mark.parametrize("multilabel", [False, True], ids=["one-label", "many-labels"])
def test_where_no_finding_is_labelled_evidence_is_read_for_the_classes(study, multilabel):
    model, batch = bare_study(study, multilabel=multilabel)
    encoded, seen = model.encode(batch), torch.ones_like(batch.presence)
    assert encoded.evidence.shape == (13, 6, 12)
    losses = model.losses(encoded, batch, seen, torch.ones_like(batch.label))
    alone, together = model.sign_prior + encoded.evidence, model.sign_prior + model.total_evidence(encoded)
    expected = finding_loss(alone, together, encoded.m, batch.label, batch.label_known)
    torch.testing.assert_close(losses.L_find, expected)
    losses.L_find.backward()
    assert bool(model.evidence.b.grad.abs().sum() > 0)
    assert bool(model.log_tau.grad.abs().sum() > 0)
    diagnosis = model.eval().diagnose(model.encode(batch))
    assert diagnosis.findings is None
    assert diagnosis.probability.isfinite().all()


def test_a_task_of_one_class_stays_finite(study):
    name = study.cohort.task.classes[0]
    patients = [dataclasses.replace(p, labels={name: True}) for p in study.patients]
    model, batch = bare_study(study, patients, classes=(name,), prevalence=(1.0,), rare=())
    losses = model.losses(model.encode(batch), batch, batch.presence, torch.ones_like(batch.label))
    assert all(loss.isfinite() for loss in losses)


def test_what_a_modality_says_for_a_class_makes_that_class_likelier(study):
    model, batch = bare_study(study)
    encoded = model.encode(batch)
    p = model.direct(encoded)
    c, said = 5, encoded.evidence.clone()
    said[:, :, c] += 1.0
    more = model.direct(encoded._replace(evidence=said))
    something = encoded.m.any(1)
    assert bool((more[something, c] > p[something, c]).all())
    assert torch.equal(more[~something], p[~something])


def test_evidence_adds_up_over_what_is_visible_scaled_by_how_many_say_so(study, model):
    encoded = model.encode(study.collator(study.patients))
    with torch.no_grad():
        model.log_tau.copy_(torch.linspace(0.3, -0.9, 7))
    each, total = model.evidence_of_each(encoded), model.total_evidence(encoded)
    for b in range(13):
        present = encoded.m[b].nonzero()[:, 0]
        tau = model.log_tau[len(present)].exp()
        torch.testing.assert_close(each[b, present], tau * encoded.evidence[b, present])
        expected = EVIDENCE_LIMIT * torch.tanh(tau * encoded.evidence[b, present].sum(0) / EVIDENCE_LIMIT)
        torch.testing.assert_close(total[b], expected)
    assert bool((each[~encoded.m] == 0).all())


def test_noise_depends_on_the_patient_and_the_step_not_on_the_batch(study):
    model = study.model()
    batch, one = study.collator(study.patients), study.collator(study.patients[3:4])
    together, alone = (
        PatientNoise(patient_numbers(b.ids, model.step.device), model.step) for b in (batch, one)
    )
    before = alone.uniform(6, stream=1)
    assert torch.equal(together.uniform(6, stream=1)[3], before[0])
    assert torch.equal(together.rows(4)[12:16], alone.rows(4))
    model.before_step(9)
    assert not torch.equal(before, alone.uniform(6, stream=1))


def test_the_teacher_follows_slowly(study):
    model = study.model()
    before = model.teacher.prior.clone()
    with torch.no_grad():
        model.integration.prior.add_(1)
    model.after_step()
    torch.testing.assert_close(model.teacher.prior, before + 1 - study.config.teacher_decay)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_the_view_that_is_asked_for_matters(study, model):
    encoded = model.encode(study.collator(study.patients[:4])).keep(torch.eye(6, dtype=torch.bool)[:4])
    everything = model.imagine(encoded, draws=3)
    nothing_more = model.imagine(encoded, view=torch.zeros(4, 6, dtype=torch.bool), draws=3)
    assert everything.shape == (4, 3, 42 + 12)
    assert not torch.equal(everything, nothing_more)


def test_only_what_training_saw_together_is_imagined(study, model):
    names = study.cohort.task.modality_names
    rows = [p for p in study.patients if p.has("text") and not p.has("mri")]
    model.fit(study.collator(rows))
    views = {tuple(v) for v in study.collator(rows).presence.tolist()}
    m = torch.tensor([[n == "text" for n in names], [n == "mri" for n in names]])
    found = fullest(model.views, m)
    assert tuple(found[0].tolist()) in views
    assert int(found[0].sum()) == max(sum(v) for v in views)
    assert torch.equal(found[1], m[1])  # nobody had an MRI: nothing to go by
    assert held_by(model.views, m).any(-1).tolist() == [True, False]


def test_a_finding_without_a_concept_is_refused(study):
    task = dataclasses.replace(study.cohort.task, findings=("hiccups",))
    with pytest.raises(ValueError, match=r"concepts lack the findings \['hiccups'\]"):
        RobustMDiff(task, study.config, study.cohort.concepts(), denoiser=True)


def test_a_concept_of_unknown_prevalence_counts_as_an_average_one(study, model):
    log_pi = torch.from_numpy(study.cohort.concepts().prevalence).log()
    known = log_pi.isfinite()
    assert 0 < int(known.sum()) < len(known)
    found = model.integration.knowledge.log_prior
    torch.testing.assert_close(found[known], log_pi[known])
    torch.testing.assert_close(found[~known], log_pi[known].mean().expand(int((~known).sum())))
