"""The terms of L_total against sums written out, and that parts of a batch add up to the whole."""

from __future__ import annotations

import math

import pytest
import torch

from robustmdiff.data.batch import Batch
from robustmdiff.diagnosis.losses import (
    Losses,
    class_loss,
    consistency_loss,
    finding_loss,
    mean_where,
    pulls,
    total_loss,
)
from robustmdiff.diagnosis.objective import DiagnosisObjective
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.labels import Exclusive, Independent
from robustmdiff.training.config import TrainConfig

B, M, C, F = 7, 3, 4, 5
BOTH = pytest.mark.parametrize("labels", [Exclusive(), Independent()], ids=["one-label", "many-labels"])


def draw(seed: int = 0) -> tuple[Batch, torch.Tensor]:
    """Labels of which some rows are known, some not, some in part; and weights."""
    g = torch.Generator().manual_seed(seed)
    label = torch.eye(C)[torch.randint(C, (B,), generator=g)].double()
    known = torch.rand(B, C, generator=g) < 0.6
    known[1], known[4] = True, False
    batch = Batch(
        ids=tuple(map(str, range(B))),
        presence=torch.ones(B, M, dtype=torch.bool),
        inputs={},
        label=label,
        label_known=known,
        findings=(torch.rand(B, F, generator=g) < 0.5).double(),
        findings_known=torch.rand(B, F, generator=g) < 0.5,
    )
    return batch, torch.rand(B, C, generator=g, dtype=torch.float64) + 0.5


def rows(batch: Batch, where: slice) -> Batch:
    fields = (batch.presence, batch.label, batch.label_known, batch.findings, batch.findings_known)
    presence, *rest = (each[where] for each in fields)
    return Batch(batch.ids[where], presence, {}, *rest)


def nats(logit: torch.Tensor, holds: torch.Tensor) -> float:
    p = 1 / (1 + math.exp(-float(logit)))
    return -math.log(p if holds else 1 - p)


def test_the_class_loss_of_one_label_is_a_mean_over_all_patients():
    batch, weight = draw()
    logits = torch.randn(B, C, dtype=torch.float64)
    expected = 0.0
    for b in range(B):
        if batch.label_known[b].all():
            c = int(batch.label[b].argmax())
            expected -= float(weight[b, c] * logits[b].softmax(-1)[c].log()) / B
    assert expected > 0
    assert float(class_loss(Exclusive(), logits, batch, weight)) == pytest.approx(expected)


def test_the_class_loss_of_many_labels_is_a_mean_over_all_cells():
    batch, weight = draw()
    logits = torch.randn(B, C, dtype=torch.float64)
    expected = sum(
        float(weight[b, c]) * nats(logits[b, c], batch.label[b, c]) / (B * C)
        for b, c in batch.label_known.nonzero().tolist()
    )
    assert float(class_loss(Independent(), logits, batch, weight)) == pytest.approx(expected)


def test_patients_have_no_weights_but_their_cells_do():
    batch, weight = draw()
    with pytest.raises(ValueError, match=r"class_loss: weight is \[7\], expected \[7, 4\]"):
        class_loss(Exclusive(), torch.randn(B, C).double(), batch, weight[:, 0])


@BOTH
def test_of_several_answers_the_mean_counts(labels):
    batch, weight = draw()
    logits = torch.randn(B, 2, C, dtype=torch.float64)
    each = [class_loss(labels, logits[:, r], batch, weight) for r in range(2)]
    torch.testing.assert_close(class_loss(labels, logits, batch, weight), sum(each) / 2)


def test_the_finding_loss_is_of_each_visible_modality_and_of_all():
    batch, _ = draw(1)
    alone, together = torch.randn(B, M, F).double(), torch.randn(B, F).double()
    m = torch.rand(B, M, generator=torch.Generator().manual_seed(2)) < 0.5
    m[2] = False
    expected = 0.0
    for b, f in batch.findings_known.nonzero().tolist():
        holds = batch.findings[b, f]
        visible = m[b].nonzero()[:, 0].tolist()
        own = sum(nats(alone[b, i, f], holds) for i in visible) / max(len(visible), 1)
        expected += (own + nats(together[b, f], holds)) / (B * F)
    hidden = alone.masked_fill(~m[..., None], float("nan"))  # never read
    found = finding_loss(hidden, together, m, batch.findings, batch.findings_known)
    assert float(found) == pytest.approx(expected)


@BOTH
def test_parts_add_up_to_the_whole_however_labels_lie(labels):
    """Measured: at most 4.4e-16 of their value in 50 draws."""
    batch, weight = draw()
    logits = torch.randn(B, C, dtype=torch.float64)
    alone, together = torch.randn(B, M, F).double(), torch.randn(B, F).double()
    m = torch.rand(B, M, generator=torch.Generator().manual_seed(3)) < 0.5

    def terms(w: slice) -> torch.Tensor:
        part = rows(batch, w)
        said = finding_loss(alone[w], together[w], m[w], part.findings, part.findings_known)
        return torch.stack([class_loss(labels, logits[w], part, weight[w]), said])

    parts = sum(terms(w) * len(batch.ids[w]) / B for w in (slice(0, 2), slice(2, 5), slice(5, B)))
    torch.testing.assert_close(parts, terms(slice(0, B)), rtol=1e-14, atol=0)


def test_consistency_is_a_mean_square():
    Z, complete = torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[0.0, 4], [1, 3]])
    assert float(consistency_loss(Z, complete, torch.ones(2))) == 3.75
    assert float(consistency_loss(Z, complete, torch.tensor([4.0, 0]))) == 5


def test_the_mean_over_what_is_visible():
    x = torch.tensor([[1.0, 2, 6], [3, 4, 5]])
    m = torch.tensor([[True, False, True], [False] * 3])
    assert mean_where(x, m).tolist() == [3.5, 0]
    assert mean_where(x[..., None].expand(2, 3, 4), m).shape == (2, 4)


def test_the_total_weighs_each_term_by_its_own_lambda():
    config = TrainConfig(lambda_diff=2, lambda_cons=3, lambda_class=5, lambda_find=7)
    assert total_loss(Losses(L_diff=1, L_cons=10, L_class=100, L_find=1000), config) == 7532
    assert total_loss(Losses(L_class=1.0), config) == 5


def test_the_objective_names_its_terms():
    class Stub(torch.nn.Module):
        def look(self, batch, kept):
            return batch

        def losses(self, encoded, batch, kept, weight):
            return Losses(L_class=torch.tensor(0.5), L_cons=torch.tensor(4.0))

    total, terms = DiagnosisObjective(Stub(), TrainConfig(lambda_cons=0.25, lambda_class=1))(None, None, None)
    assert float(total) == 1.5
    assert {name: float(x) for name, x in terms.items()} == {"diff": 0, "cons": 4, "class": 0.5, "find": 0}


def test_how_hard_each_term_pulls_at_the_encoders():
    """Norms of gradients known beforehand; looking at them leaves none behind."""
    weights = torch.tensor([2.0, 1.0], requires_grad=True)
    tokens, H = weights[0] * torch.ones(3, 4), weights[1] * torch.ones(1, 2, 4)
    losses = Losses(
        L_diff=(weights * 7).sum(),  # which does not read what the encoders gave
        L_class=2 * tokens.sum() + 3 * H[0, 0].sum(),
        L_find=5 * H[0, 1, 0],
    )
    segments = torch.zeros(1, 2, 2, dtype=torch.int32)
    found = pulls(losses, Encoded(tokens, segments, H))
    expected = {"diff": 0, "cons": 0, "class": math.sqrt(12 * 2**2 + 4 * 3**2), "find": 5}
    assert {name: float(x) for name, x in found.items()} == pytest.approx(expected)
    assert weights.grad is None
    sum(losses).backward()
    assert weights.grad.tolist() == [7 + 2 * 12, 7 + 3 * 4 + 5]
    nothing = pulls(losses, Encoded(tokens.detach(), segments, H.detach()))
    assert nothing == dict.fromkeys(expected, 0)
