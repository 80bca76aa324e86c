from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.sets import ConformalSets

PATTERNS = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
SHARE = [0.4, 0.3, 0.24, 0.03, 0.03]  # the last two are too small to stand alone


def simulated(n, seed, C=5, multilabel=False):
    """A model that is overconfident, and more so the less is present."""
    g = torch.Generator().manual_seed(seed)
    pattern = torch.multinomial(torch.tensor(SHARE), n, replacement=True, generator=g)
    presence = PATTERNS[pattern]
    signal = torch.randn(n, C, generator=g) * (0.3 + presence.sum(1, keepdim=True) / 2)
    sharper = signal * (5 - presence.sum(1, keepdim=True))
    if multilabel:
        label = torch.rand(n, C, generator=g) < (signal - 0.5).sigmoid()
        return sharper.sigmoid(), label.float(), presence, pattern
    label = torch.nn.functional.one_hot(torch.multinomial(signal.softmax(1), 1, generator=g)[:, 0], C)
    return sharper.softmax(1), label.float(), presence, pattern


def lowest_fair(level, calibration, tested):
    """The coverage below which `level` is refuted: three errors of both samples."""
    return level - 3 * math.sqrt(level * (1 - level) * (1 / calibration + 1 / tested))


def test_each_pattern_is_covered():
    alpha = 0.1
    p, y, presence, _ = simulated(2000, seed=0)
    conformal = ConformalSets.fit(p, y, presence, alpha)
    p, y, presence, pattern = simulated(20_000, seed=1)
    sets = torch.from_numpy(conformal.sets(p, presence))
    covered = (sets & y.bool()).any(1).double()
    for k in range(3):
        rows = pattern == k
        name, n = conformal.group(PATTERNS[k])
        assert "present" not in name
        assert n >= 100
        assert covered[rows].mean() >= lowest_fair(1 - alpha, n, int(rows.sum()))
        # and not by naming everything: no more than asked for, up to the class that is always named
        assert covered[rows].mean() <= 2 * (1 - alpha) - lowest_fair(1 - alpha, n, int(rows.sum())) + 0.02
    sizes = [float(sets[pattern == k].sum(1).double().mean()) for k in range(3)]
    assert sizes[0] < sizes[2] < sizes[1] < 5
    assert covered.mean() >= lowest_fair(1 - alpha, 2000, 20_000)


def test_without_patterns_the_poor_ones_would_be_missed():
    """Why Mondrian: one quantile for all leaves the single modality short."""
    p, y, presence, _ = simulated(2000, seed=0)
    everyone = ConformalSets.fit(p, y, torch.ones_like(presence), 0.1)
    p, y, presence, pattern = simulated(20_000, seed=1)
    sets = torch.from_numpy(everyone.sets(p, torch.ones_like(presence)))
    assert (sets & y.bool()).any(1)[pattern == 1].double().mean() < 0.88


def test_every_class_is_covered_where_labels_are_many():
    alpha = 0.2
    p, y, presence, _ = simulated(6000, seed=2, multilabel=True)
    conformal = ConformalSets.fit(p, y, presence, alpha, multilabel=True)
    p, y, presence, pattern = simulated(20_000, seed=3, multilabel=True)
    sets = torch.from_numpy(conformal.sets(p, presence))
    for k in range(3):
        for c in range(5):
            rows = (pattern == k) & y[:, c].bool()
            _, n = conformal.group(PATTERNS[k], c)
            assert sets[rows, c].double().mean() >= lowest_fair(1 - alpha, n, int(rows.sum()))
    assert sets.double().mean() < 0.9


def test_small_patterns_merge_by_size_then_all():
    p, y, presence, _ = simulated(1500, seed=4)
    small = ConformalSets.fit(p, y, presence, 0.1)
    assert small.group(torch.tensor([0, 1, 0, 0]).bool())[0] == "0100"
    assert small.group(torch.tensor([0, 0, 1, 1]).bool()) == ("all", 1500)  # 2 present: about 45
    assert small.group(torch.tensor([1, 1, 1, 0]).bool())[0] == "all"  # never seen
    # 2 present now has 60 + 70 of two patterns, each under 100
    presence = torch.cat(
        [torch.tensor([[1, 1, 0, 0]] * 60 + [[0, 1, 1, 0]] * 70 + [[1, 1, 1, 1]] * 170)]
    ).bool()
    merged = ConformalSets.fit(p[:300], y[:300], presence, 0.1)
    assert merged.group(torch.tensor([0, 1, 1, 0]).bool()) == ("2 present", 130)
    assert merged.group(torch.tensor([1, 1, 1, 1]).bool()) == ("1111", 170)


def test_quantile_is_the_one_of_the_theorem():
    """n = 19 and alpha = .1: the 18th smallest of the scores; n = 8 cannot promise it: all classes."""
    score = torch.arange(1, 20) / 20
    p = torch.stack([1 - score, score], 1)
    y = torch.tensor([[1.0, 0.0]] * 19)
    present = torch.ones(19, 3, dtype=torch.bool)
    ((quantile, n),) = ConformalSets.fit(p, y, present, 0.1).quantiles[0].values()
    assert (quantile, n) == (pytest.approx(18 / 20), 19)
    few = ConformalSets.fit(p[:8], y[:8], present[:8], 0.1)
    assert few.sets(p, present).all()


def test_the_most_probable_class_is_always_named():
    p = torch.tensor([[0.34, 0.33, 0.33]])
    sure = torch.tensor([[0.98, 0.01, 0.01]]).repeat(200, 1)
    y = torch.tensor([[1.0, 0.0, 0.0]]).repeat(200, 1)
    conformal = ConformalSets.fit(sure, y, torch.ones(200, 2, dtype=torch.bool), 0.1)
    assert conformal.sets(p, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[True, False, False]]


def test_unknown_labels_do_not_calibrate():
    p, y, presence, _ = simulated(900, seed=5)
    known = torch.ones_like(y, dtype=torch.bool)
    known[400:] = False
    a = ConformalSets.fit(p, y, presence, 0.1, known=known)
    b = ConformalSets.fit(p[:400], y[:400], presence[:400], 0.1)
    assert a.quantiles == b.quantiles


def test_saved_and_loaded_sets_are_the_same(tmp_path):
    p, y, presence, _ = simulated(700, seed=6, multilabel=True)
    conformal = ConformalSets.fit(p, y, presence, 0.01, multilabel=True)
    conformal.save(tmp_path / "sets.json")
    again = ConformalSets.load(tmp_path / "sets.json")
    np.testing.assert_array_equal(conformal.sets(p, presence), again.sets(p, presence))
    assert [f.name for f in tmp_path.iterdir()] == ["sets.json"]
    (tmp_path / "sets.json").write_text('{"alpha": 0.1', encoding="utf-8")
    with pytest.raises(ValueError, match=r"sets\.json: not a saved ConformalSets"):
        ConformalSets.load(tmp_path / "sets.json")


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_alpha_out_of_range(alpha):
    p, y, presence, _ = simulated(30, seed=7)
    with pytest.raises(ValueError, match="alpha is"):
        ConformalSets.fit(p, y, presence, alpha)


def test_shapes_that_do_not_fit():
    p, y, presence, _ = simulated(30, seed=7)
    with pytest.raises(ValueError, match=r"probability is \[30, 4\]"):
        ConformalSets.fit(p[:, :4], y, presence, 0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.1, 1.1])
@pytest.mark.parametrize("multilabel", [False, True])
def test_what_is_no_probability_makes_no_set(bad, multilabel):
    p, y, presence, _ = simulated(200, seed=8, multilabel=multilabel)
    conformal = ConformalSets.fit(p, y, presence, multilabel=multilabel)
    p[17, 3] = bad
    expected = rf"the probability of class 3 is {bad:.7g}\d* for row 17, expected a number in \[0, 1\]"
    with pytest.raises(ValueError, match=expected):
        ConformalSets.fit(p, y, presence, multilabel=multilabel)
    with pytest.raises(ValueError, match=expected):
        conformal.sets(p, presence)


def test_rounding_may_take_a_mean_of_probabilities_past_1():
    p, y, presence, _ = simulated(200, seed=8)
    p[17] = torch.tensor([0, 0, 0, 1.0000002, 0])
    assert ConformalSets.fit(p, y, presence).sets(p, presence)[17, 3]


def test_labels_that_are_none_are_refused():
    p, y, presence, _ = simulated(30, seed=9)
    known = torch.ones_like(y, dtype=torch.bool)

    def refused(message, label=y, known=known, **settings):
        with pytest.raises(ValueError, match=message):
            ConformalSets.fit(p, label, presence, known=known, **settings)

    for bad in (math.nan, 0.5):  # NaN is how some say that it is not known
        label = y.clone()
        label[4, 2] = bad
        refused(rf"label\[4, 2\] is {bad}, expected 0 or 1, or not known", label)
        refused(rf"label\[4, 2\] is {bad}", label, multilabel=True)
        partly = known.clone()
        partly[4] = False
        ConformalSets.fit(p, label, presence, known=partly)
    none, two = y.clone(), y.clone()
    none[6], two[6, :2] = 0, 1
    refused(r"label\[6\] names 0 classes, expected one", none)
    refused(r"label\[6\] names [23] classes, expected one", two)
    ConformalSets.fit(p, none, presence, multilabel=True)
    for multilabel in (False, True):
        refused("no class is known to hold for any of 30", known=~known, multilabel=multilabel)
    refused(r"known \[30, 4\]", known=known[:, :4])


def test_presence_says_yes_or_no():
    p, y, presence, _ = simulated(30, seed=9)
    with pytest.raises(ValueError, match=r"presence is float32 \[30, 4\], expected bool"):
        ConformalSets.fit(p, y, presence.float() * math.nan)
    with pytest.raises(ValueError, match=r"expected bool"):
        ConformalSets.fit(p, y, presence).sets(p, presence.int())


def test_sets_of_other_classes_are_refused():
    p, y, presence, _ = simulated(30, seed=9, multilabel=True)
    with pytest.raises(ValueError, match=r"probability is \[30, 4\], expected 5 classes"):
        ConformalSets.fit(p, y, presence, multilabel=True).sets(p[:, :4], presence)


SETS = {"alpha": 0.1, "multilabel": False, "quantiles": [{"all": [0.5, 40]}]}
RULE = {"mean": [[0.0, 1.0]] * 3, "whiten": [[1.0, 0.0], [0.0, 1.0]], "threshold": [1.0, None, 2.0]}


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (ConformalSets, {"alpha": math.nan}),
        (ConformalSets, {"alpha": "0.1"}),
        (ConformalSets, {"alpha": 3}),
        (ConformalSets, {"multilabel": None}),
        (ConformalSets, {"quantiles": []}),
        (ConformalSets, {"quantiles": {}}),
        (ConformalSets, {"quantiles": [[0.5, 40]]}),
        (ConformalSets, {"quantiles": [{}]}),
        (ConformalSets, {"quantiles": [{"101": [0.5, 400]}]}),
        (ConformalSets, {"quantiles": [{"all": [0.5, 40]}] * 2}),
        (ConformalSets, {"quantiles": [{"all": [math.nan, 40]}]}),
        (ConformalSets, {"quantiles": [{"all": [-1, 40]}]}),
        (ConformalSets, {"quantiles": [{"all": [0.5]}]}),
        (ConformalSets, {"quantiles": [{"all": [0.5, -1]}]}),
        (ConformalSets, {"quantiles": [{"all": ["half", 40]}]}),
        (Abstention, {"mean": [[math.nan, 1.0]] * 3}),
        (Abstention, {"mean": [[0.0, 1.0]] * 2}),
        (Abstention, {"mean": [0.0, 1.0]}),
        (Abstention, {"whiten": [[1.0, 0.0]]}),
        (Abstention, {"whiten": [[1.0], [0.0, 1.0]]}),
        (Abstention, {"threshold": [1.0, math.nan, 2.0]}),
        (Abstention, {"threshold": [1.0, -1.0, 2.0]}),
        (Abstention, {"threshold": None}),
    ],
)
def test_a_damaged_file_is_refused(kind, damage, tmp_path):
    path, state = tmp_path / "kept.json", SETS if kind is ConformalSets else RULE
    path.write_text(json.dumps(state), encoding="utf-8")
    assert json.loads(json.dumps(kind.load(path).state())) == state
    path.write_text(json.dumps(state | damage), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"kept\.json: not a saved {kind.__name__}"):
        kind.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
@pytest.mark.parametrize("kind", [ConformalSets, Abstention])
def test_what_was_never_saved_is_refused(kind, content, tmp_path):
    (tmp_path / "kept.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"kept\.json: not a saved {kind.__name__}"):
        kind.load(tmp_path / "kept.json")
