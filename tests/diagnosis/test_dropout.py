"""A patient's dropout: whoever else is in the batch, and torch's own where no training step runs."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustmdiff.nn.dropout import (
    PatientDropout,
    give_to_patients,
    of_batch,
    of_others,
    of_rows,
    of_tokens,
    patient_numbers,
)

IDS = tuple("abcdefg")
SHAPE = (5, 12)


def kept(ids: tuple[str, ...] = IDS, *, step: int = 3, place: int = 0, p: float = 0.3, shape=SHAPE) -> Tensor:
    """Which of the ones it let through, bool [len(ids), *shape]."""
    with of_batch(step, ids):
        return PatientDropout(p, place)(torch.ones(len(ids), *shape)) > 0


def test_a_patients_mask_does_not_depend_on_the_others():
    together = kept()
    for i, id in enumerate(IDS):
        assert torch.equal(kept((id,))[0], together[i])
    assert torch.equal(kept(IDS[::-1]), together.flip(0))
    twice = kept(("c", "a", "c"))  # drawn twice by a sampler that puts back
    assert torch.equal(twice, together[[2, 0, 2]])


def test_padding_behind_a_row_changes_nothing():
    assert torch.equal(kept(shape=(9, 12))[:, :5], kept())
    assert torch.equal(kept(shape=(61,))[:, :60], kept().flatten(1))


def test_no_two_draws_are_the_same():
    drawn = [kept(), kept(step=4), kept(place=1), kept(step=4, place=1)]
    with of_batch(3, IDS):
        layer = PatientDropout(0.3, 0)
        drawn += [layer(torch.ones(7, *SHAPE)) > 0 for _ in range(2)][1:]  # the first call is drawn[0]
    masks = [mask for one in drawn for mask in one]
    for a, b in itertools.combinations(masks, 2):
        assert 0.3 < (a == b).double().mean() < 0.86  # equal by chance: 0.7^2 + 0.3^2 = 0.58


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_the_share_it_is_asked_for(p):
    n = 400_000
    with of_batch(1, ("x",)):
        out = PatientDropout(p, 2)(torch.ones(1, n))
    assert out.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    assert abs(float((out == 0).double().mean()) - p) < 5 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_goes_where_the_value_went(dtype):
    x = torch.randn(7, *SHAPE, dtype=dtype, requires_grad=True)
    with of_batch(3, IDS):
        out = PatientDropout(0.3, 0)(x)
    assert out.dtype == dtype
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad != 0, kept())
    torch.testing.assert_close(out, x * grad)


def test_rows_that_are_some_of_the_patients():
    whole, layer = kept(), PatientDropout(0.3, 0)
    with of_batch(3, IDS):
        with of_rows(torch.tensor([4, 1])):
            assert torch.equal(layer(torch.ones(2, *SHAPE)) > 0, whole[[4, 1]])
        with of_others(3):
            concepts = layer(torch.ones(3, *SHAPE)) > 0
        assert torch.equal(layer(torch.ones(7, *SHAPE)) > 0, whole)
    with of_batch(3, ("someone", "else")), of_others(3):
        assert torch.equal(layer(torch.ones(3, *SHAPE)) > 0, concepts)


def test_tokens_end_to_end_belong_to_their_patient_and_place():
    layer, row = PatientDropout(0.3, 0), torch.tensor([0, 0, 0, 1, 2, 2])
    place = torch.tensor([0, 1, 2, 0, 0, 1])

    def drop(ids: str, row: Tensor, place: Tensor) -> Tensor:
        with of_batch(3, tuple(ids)), of_tokens(row, place):
            return layer(torch.ones(1, len(row), 400))[0] > 0

    together = drop("abc", row, place)
    alone = drop("c", torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert torch.equal(alone, together[4:])
    assert torch.equal(drop("abc", row[[3, 2]], place[[3, 2]]), together[[3, 2]])
    for a, b in itertools.combinations(together, 2):
        assert 0.45 < (a == b).double().mean() < 0.71  # equal by chance: 0.58
    with of_batch(3, ("a", "b", "c")):
        assert torch.equal(layer(torch.ones(3, 400)) > 0, kept(("a", "b", "c"), shape=(400,)))


def test_elsewhere_it_is_torchs_dropout():
    layer, plain, x = PatientDropout(0.3, 0), nn.Dropout(0.3), torch.ones(7, *SHAPE)

    def same(x: Tensor) -> None:
        torch.manual_seed(0)
        expected = plain(x)
        torch.manual_seed(0)
        assert torch.equal(layer(x), expected)

    same(x)
    with of_rows(torch.arange(7)), of_others(7):
        same(x)
    with of_batch(3, IDS):
        same(torch.ones(35, 12))  # tokens of all patients end to end: whose they are is not known
        assert torch.equal(layer.eval()(x), x)
        for p in (0.0, 1.0):
            assert torch.equal(PatientDropout(p, 0)(x), x * (1 - p))
    assert PatientDropout(0.3, 0)(torch.ones(0, 4)).shape == (0, 4)


def test_a_batch_without_rows():
    with of_batch(3, ()):
        assert PatientDropout(0.3, 0)(torch.ones(0, 4)).shape == (0, 4)


def test_every_dropout_of_a_model_becomes_one_and_nothing_else_changes():
    shared = nn.Dropout(0.4)
    layer = nn.TransformerEncoderLayer(8, 2, 8, 0.2, batch_first=True)
    model = nn.Sequential(shared, nn.ModuleList([nn.Linear(2, 2), nn.Dropout(0.1).eval()]), shared, layer)
    before = copy.deepcopy(model.state_dict())
    give_to_patients(model)
    found = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [type(m) for m in found] == [PatientDropout] * 5
    assert [m.p for m in found] == [0.4, 0.1, 0.2, 0.2, 0.2]
    assert sorted(m.place for m in found) == [0, 1, 2, 3, 4]
    assert [m.training for m in found] == [True, False, True, True, True]
    assert model[0] is model[2]
    assert model.state_dict().keys() == before.keys()
    give_to_patients(model)
    assert [m for m in model.modules() if isinstance(m, nn.Dropout)] == found


def test_a_patients_number_is_written_down():
    """Stored runs resume by it."""
    assert patient_numbers(["", "a", "p-1"]).tolist() == [0, 0xE8B7BE43, 0xDA44EB97]


def test_a_models_losses_in_parts_are_those_of_the_whole(study):
    """Every dropout of ours: encoders, the concepts' names, the fusion."""
    model = replace(study, config=replace(study.config, dropout=0.3)).model()
    give_to_patients(model)
    model.train()
    kept = torch.ones(len(study.patients), len(study.cohort.task.modalities), dtype=torch.bool)

    def losses(rows: list[int], step: int = 5) -> Tensor:
        batch = study.collator([study.patients[i] for i in rows])
        with of_batch(step, batch.ids):
            found = model.losses(model.encode(batch), batch, kept[rows], torch.ones_like(batch.label))
        return torch.stack([found.L_class, found.L_diff, found.L_cons, found.L_find]).detach()

    everyone = list(range(13))
    whole = losses(everyone)
    parts = (losses(everyone[:4]) * 4 + losses(everyone[4:]) * 9) / 13
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(losses(everyone), whole)  # nothing is drawn anew
    assert not torch.allclose(losses(everyone, step=6), whole, rtol=1e-2)
