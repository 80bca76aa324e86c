"""The missing-modality protocol on patients whose posterior is in closed form."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from robustmdiff.data.collate import Collator
from robustmdiff.diagnosis.calibration import calibrate
from robustmdiff.diagnosis.contract import Logits
from robustmdiff.encoders.tensors import tensors
from robustmdiff.evaluation import protocol
from robustmdiff.evaluation.conditions import COMPLETE, MCAR, Subset, mcar
from robustmdiff.evaluation.masks import RATES, Masks, draw_masks
from robustmdiff.evaluation.protocol import evaluate
from robustmdiff.evaluation.report import headline, to_json
from tests.evaluation.ward import CLASSES, MODALITIES, TASK, C, M, Stub, collate, run, ward


def test_the_exact_model_reaches_the_ceiling_everywhere(uncalibrated):
    assert set(uncalibrated.values["stub"]) == set(uncalibrated.masks.keep)
    for condition, values in uncalibrated.values["stub"].items():
        ceiling = uncalibrated.values["ceiling"][condition]
        np.testing.assert_allclose(values["auroc/macro"], ceiling["auroc/macro"], atol=2e-3)
        share = uncalibrated.share_of_ceiling("stub", condition)
        assert share.value == pytest.approx(1.0, abs=0.01)


def test_every_condition_is_there(results):
    assert len(results.masks.subsets) == 2**M - 1
    for rate in RATES:
        assert mcar(rate) in results.masks.keep
        assert mcar(rate, at_least_one=True) in results.masks.keep
    everything = Subset(MODALITIES)
    for metric, values in results.values["stub"][COMPLETE].items():
        np.testing.assert_array_equal(values, results.values["stub"][everything][metric], err_msg=metric)


def test_nothing_present_is_answered_too(results):
    assert not results.presence[0].any()
    np.testing.assert_allclose(results.probability["stub"][COMPLETE][0], TASK.prevalence, atol=1e-6)


def test_answers_do_not_depend_on_the_batch_size_and_batches_are_encoded_once(results, models, monkeypatch):
    monkeypatch.setattr(protocol, "BATCH", 7)
    patients, _, _ = ward(180)
    stub = copy.deepcopy(models["stub"]).train()
    stub.encoded = 0
    again = evaluate({"stub": stub}, patients, collate, TASK, replicates=20)
    assert stub.encoded == -(-180 // 7)
    assert stub.training
    for condition, p in again.probability["stub"].items():
        np.testing.assert_array_equal(p, results.probability["stub"][condition])


def test_answers_are_those_of_each_mask_alone(results, models):
    patients, _, _ = ward(180)
    stub = copy.deepcopy(models["stub"]).eval()
    encoded = stub.encode(tensors(collate(patients)))
    for condition, keep in results.masks.keep.items():
        direct = stub.diagnose(encoded.keep(torch.from_numpy(keep))).probability.detach().numpy()
        np.testing.assert_array_equal(results.probability["stub"][condition], direct)


def test_retention_area_and_worst_subset(results):
    curve = results.retention("stub")
    assert curve.shape == (21, len(RATES))
    np.testing.assert_allclose(curve[:, 0], 1)
    assert curve[0, -1] < curve[0, 5] < 1
    mcar_area, kept_area = results.area("stub"), results.area("stub", at_least_one=True)
    assert mcar_area.low <= mcar_area.value <= mcar_area.high < 1
    assert kept_area.value > mcar_area.value
    (worst,) = results.worst_subsets("stub")
    assert len(worst.names) == 1  # one modality tells less than two


def test_paired_difference_between_methods(results, uncalibrated):
    same = uncalibrated.difference("stub", "ceiling", COMPLETE, "auroc/macro")
    assert abs(same.value) < 2e-3
    assert same.high - same.low < 5e-3
    ece = uncalibrated.difference("sure", "stub", COMPLETE, "ece")
    assert ece.low > 0  # overconfidence shows
    repaired = results.difference("sure", "stub", COMPLETE, "ece")
    assert repaired.low <= 0 <= repaired.high  # and a temperature mends it


def test_sets_are_calibrated_for_every_subset(results):
    """Overconfidence does not matter: 260 calibration patients, .9 promised, 180 tested."""
    slack = 3 * np.sqrt(0.9 * 0.1 * (1 / 120 + 1 / 120))
    for method in ("stub", "sure"):
        for condition in (COMPLETE, mcar(0.5), *results.masks.subsets):
            assert results.values[method][condition]["coverage"][0] >= 0.9 - slack
        size = [results.values[method][c]["set_size"][0] for c in (COMPLETE, mcar(0.5), mcar(0.9))]
        assert size[0] < size[1] < size[2]
    assert "coverage" not in results.values["ceiling"][COMPLETE]


def test_a_reference_that_needs_no_encoder():
    flat = run(40, references={"prevalence": lambda kept: np.tile(TASK.prevalence, (len(kept), 1))})
    assert flat.methods == ["stub", "sure", "prevalence"]
    assert flat.values["prevalence"][COMPLETE]["auroc/macro"][0] == 0.5


def test_weights():
    plain, weighted = run(60), run(60, weight=np.linspace(0.1, 2, 60))
    assert plain.interval("stub", COMPLETE, "brier") != weighted.interval("stub", COMPLETE, "brier")
    with pytest.raises(ValueError, match=r"weight is \[59\], expected 60"):
        run(60, weight=np.ones(59))


def test_masks_are_nested_reproducible_and_stored(tmp_path):
    patients, _, present = ward(150)
    ids = [p.id for p in patients]
    masks = draw_masks(ids, present, MODALITIES, seed=3)
    for low, high in pairwise(RATES):
        assert (masks.keep[mcar(low)] >= masks.keep[mcar(high)]).all()
    for rate in RATES[1:]:
        kept = present & masks.keep[mcar(rate, at_least_one=True)]
        np.testing.assert_array_equal(kept.any(1), present.any(1))
        gone = 1 - masks.keep[mcar(rate)].mean()
        assert gone == pytest.approx(rate, abs=3 * np.sqrt(rate * (1 - rate) / 450))
    masks.save(tmp_path / "masks.npz")
    again = Masks.load(tmp_path / "masks.npz")
    assert (again.ids, again.modalities, again.rates) == (masks.ids, masks.modalities, masks.rates)
    assert again.keep.keys() == masks.keep.keys()
    for name, keep in masks.keep.items():
        np.testing.assert_array_equal(keep, again.keep[name])
    with pytest.raises(ValueError, match="rates are"):
        draw_masks(ids, present, MODALITIES, rates=(0.5, 0.1))


def test_stored_masks_are_used_and_those_of_others_refused(results, models):
    again = run(models=models, masks=results.masks, seed=99)
    np.testing.assert_array_equal(
        again.probability["stub"][mcar(0.5)], results.probability["stub"][mcar(0.5)]
    )
    with pytest.raises(ValueError, match="stored for other patients"):
        run(60, masks=results.masks)


def test_a_model_that_answers_nan_is_named():
    patients, _, _ = ward(12)  # of the first one nothing is known
    with pytest.raises(ValueError, match="broken: the probability of class 0 is nan for patient 'p0-1'"):
        evaluate({"broken": Stub(float("nan"))}, patients, collate, TASK)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.2, 1.2])
def test_a_reference_that_answers_no_probability_is_named(bad):
    patients, _, _ = ward(12)
    answer = np.full((12, len(TASK.classes)), 0.25)
    answer[7, 1] = bad
    expected = f"evaluate: prior: the probability of class 1 is {bad} for patient {patients[7].id!r}"
    with pytest.raises(ValueError, match=expected):
        evaluate({}, patients, collate, TASK, references={"prior": lambda kept: answer})


def test_nobody_to_ask_or_nothing_to_answer():
    with pytest.raises(ValueError, match="patients is empty"):
        evaluate({"stub": Stub()}, [], collate, TASK)
    with pytest.raises(ValueError, match="models is empty"):
        evaluate({}, ward(3)[0], collate, TASK)


def test_seven_modalities_are_not_enumerated():
    masks = draw_masks(["x", "y"], np.ones((2, 7), dtype=bool), tuple("abcdefg"))
    assert len(masks.subsets) == 7 + 7 + 1


def test_people_with_several_records_are_drawn_together():
    patients = [replace(p, group=f"g{i // 2}") for i, p in enumerate(ward(60)[0])]
    found = evaluate({"stub": Stub()}, patients, collate, TASK, replicates=20)
    plain = run(60)
    value, low, high = found.interval("stub", COMPLETE, "brier")
    assert value == plain.interval("stub", COMPLETE, "brier").value
    assert (low, high) != plain.interval("stub", COMPLETE, "brier")[1:]
    assert found.people == 30
    rare = [i for i, p in enumerate(patients) if p.labels["rarely seen"]]
    assert found.counts["rarely seen"] == (len(rare), 60, len({i // 2 for i in rare}), 30)
    stored = to_json(found)
    assert (stored["records"], stored["people"]) == (60, 30)
    assert stored["counts"]["rarely seen"]["people"] == len({i // 2 for i in rare})


def test_sets_are_those_that_are_handed_in(results):
    """Coverage is that of the sets that go with a model, made by nobody else."""
    sets = calibrate(Stub(2.5), ward(260, seed=1)[0], (), collate).sets
    found = run(sets={"stub": sets})
    p, left = found.probability["stub"][MCAR(0.5)], found.kept(MCAR(0.5))
    expected = sets.sets(p.astype(float), left)
    np.testing.assert_array_equal(found.sets["stub"][MCAR(0.5)], expected)
    assert found.values["stub"][MCAR(0.5)]["coverage"][0] == expected[found.truth.label].mean()
    assert "coverage" not in found.values["sure"][COMPLETE]
    with pytest.raises(ValueError, match="sets has 'other', expected some of stub, sure"):
        run(sets={"other": sets})
    sets.alpha = 0.2
    with pytest.raises(ValueError, match=r"sets have alpha \[0.1, 0.2\], expected the same"):
        run(sets={"stub": sets, "sure": calibrate(Stub(), ward(260, seed=1)[0], (), collate).sets})


def test_several_labels_at_once():
    """Multilabel: cells may be unknown, sets are per class, the report is written all the same."""
    task = replace(TASK, multilabel=True)
    rng = np.random.default_rng(5)

    class Yes(Stub):
        def classify(self, encoded):
            x = encoded.H[..., 0].masked_fill(~encoded.m, 0).sum(1, keepdim=True)
            return Logits(x - torch.arange(C))

    patients, calibration = (
        [
            replace(
                p,
                labels={
                    name: p.labels[name] or bool(rng.random() < 0.2) for name in CLASSES if rng.random() < 0.9
                },
            )
            for p in ward(150, seed=seed)[0]
        ]
        for seed in (0, 1)
    )
    yes = Yes(task=task)
    found = evaluate(
        {"yes": yes},
        patients,
        Collator(task),
        task,
        sets={"yes": calibrate(yes, calibration, (), Collator(task)).sets},
        replicates=5,
    )
    assert not found.truth.known.all()
    values = found.values["yes"][COMPLETE]
    assert "accuracy" not in values
    assert values["coverage"][0] >= 0.9 - 3 * np.sqrt(0.09 * (1 / 150 + 1 / 150))
    assert headline(found)[0]["accuracy"] is None
