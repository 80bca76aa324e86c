from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from robustmdiff.data.patient import Patient
from robustmdiff.diagnosis.latents import pairs_of, partial_views


def test_an_answer_needs_y_alone(study, model):
    """To the last bit, and with what the head adds."""
    with torch.no_grad():
        x = model.observe(model.encode(study.collator(study.patients)))
        y = model.condense(x)
        assert y.shape == (13, 42 + 12)
        Z, evidence = x[:, :8], 4 * x[:, 8:]
        by_hand = model.log_prior + model.prior_shift + model.table(evidence) + model.head(Z)
        assert torch.equal(model.logits_from(y), by_hand)
        assert torch.equal(model.logits(x), by_hand)
        model.log_weight += torch.linspace(0, 2, 12)
        torch.testing.assert_close(model.probability_from(y), (by_hand - model.log_weight).softmax(-1))
        model.log_weight.zero_()


def test_every_partial_view_where_they_are_few():
    present = np.array([True, False, True, True])
    m, more = partial_views(present, 99, random.Random(0))
    assert {tuple(row) for row in m.tolist()} == {
        (a, False, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1) if a + b + c < 3
    }
    assert (more.sum(1) == m.sum(1) + 1).all()
    assert (more & ~present).sum() == (m & ~more).sum() == 0


def test_some_partial_views_where_they_are_many():
    present = np.ones(20, dtype=bool)
    m, more = partial_views(present, 50, random.Random(0))
    assert len(np.unique(m, axis=0)) == len(m) == len(more) == 50
    assert 8 < m.sum(1).mean() < 12  # each of 20 is there half the time
    assert partial_views(~present, 50, random.Random(0))[0].shape == (0, 20)


def test_pairs_are_what_the_model_sees(study, model):
    patients = [*study.patients, Patient("nobody", {})]
    pairs = pairs_of(model, patients, study.collator, seed=3)
    batch = study.collator(patients)
    partial = 2 ** batch.presence.sum(1) - 1
    assert len(pairs.y) == 2 * int(partial.sum())
    assert torch.equal(pairs.patient.bincount(minlength=14), 2 * partial)
    assert (pairs.seen.m & ~pairs.view).sum() == 0
    assert torch.equal(pairs.label, batch.label[pairs.patient])
    assert torch.equal(pairs.known, batch.label_known[pairs.patient])
    with torch.no_grad():
        encoded = model.encode(batch)
    for row in range(0, len(pairs.y), 97):
        who = int(pairs.patient[row])
        for m, y, evidence in (
            (pairs.seen.m[row], pairs.seen.y[row], pairs.seen.evidence[row]),
            (pairs.view[row], pairs.y[row], pairs.evidence[row]),
        ):
            with torch.no_grad():
                mask = torch.zeros_like(encoded.m)
                mask[who] = m
                seen = model.seen(encoded.keep(mask))
            assert torch.equal(seen.m[who], m)
            torch.testing.assert_close(seen.y[who], y)
            torch.testing.assert_close(seen.evidence[who], evidence)
        torch.testing.assert_close(model.probability_from(pairs.seen.y[row]), pairs.seen.p[row])


def test_half_the_targets_are_everything_and_half_one_modality_more(study, model):
    pairs = pairs_of(model, study.patients, study.collator, seed=3)
    presence = study.collator(study.patients).presence[pairs.patient]
    everything = (pairs.view == presence).all(1)
    one_more = (pairs.view.sum(1) - pairs.seen.m.sum(1)) == 1
    assert (everything | one_more).all()
    assert int(everything.sum()) >= len(pairs.y) // 2 <= int(one_more.sum())


@pytest.mark.parametrize("multilabel", [False, True], ids=["one-label", "many-labels"])
def test_what_is_hidden_is_no_evidence(multilabel, make_study):
    study = make_study(multilabel=multilabel, missingness="mcar", rate=0.4)
    model = study.model()
    with torch.no_grad():
        encoded = model.encode(study.collator(study.patients))
        hidden = encoded.keep(torch.rand(encoded.m.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
        seen = model.seen(hidden)
        poisoned = hidden.evidence.masked_fill(~hidden.m[..., None], torch.nan)
        again = model.seen(hidden._replace(evidence=poisoned))
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))
    assert seen.evidence[~seen.m].abs().sum() == 0
