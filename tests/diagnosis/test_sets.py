from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from robustmdiff.diagnosis.abstention import Abstention
from robustmdiff.diagnosis.sets import ConformalSets
from robustmdiff.labels import EXCLUSIVE, INDEPENDENT

PATTERNS = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
BOTH = pytest.mark.parametrize("labels", [EXCLUSIVE, INDEPENDENT], ids=["one-label", "many-labels"])
SHARE = [0.4, 0.3, 0.24, 0.03, 0.03]


def simulated(n, seed, C=5, labels=EXCLUSIVE):
    """A model that is overconfident, and more so the less is present."""
    g = torch.Generator().manual_seed(seed)
    pattern = torch.multinomial(torch.tensor(SHARE), n, replacement=True, generator=g)
    presence = PATTERNS[pattern]
    signal = torch.randn(n, C, generator=g) * (0.3 + presence.sum(1, keepdim=True) / 2)
    sharper = signal * (5 - presence.sum(1, keepdim=True))
    if not labels.exclusive:
        label = torch.rand(n, C, generator=g) < (signal - 0.5).sigmoid()
        return sharper.sigmoid(), label.float(), presence, pattern
    label = torch.nn.functional.one_hot(torch.multinomial(signal.softmax(1), 1, generator=g)[:, 0], C)
    return sharper.softmax(1), label.float(), presence, pattern


def lowest_fair(level, calibration, tested):
    """The coverage below which `level` is refuted: three errors of both samples."""
    return level - 3 * math.sqrt(level * (1 - level) * (1 / calibration + 1 / tested))


def test_each_class_is_covered_with_each_number_of_modalities():
    alpha = 0.1
    p, y, presence, _ = simulated(4000, seed=0)
    conformal = ConformalSets.fit(p, y, presence, alpha)
    p, y, presence, pattern = simulated(20_000, seed=1)
    sets = torch.from_numpy(conformal.sets(p, presence))
    for k in range(3):
        for c in range(5):
            rows = (pattern == k) & y[:, c].bool()
            words, n = conformal.group(PATTERNS[k], c)
            assert words.startswith("with this class and ")
            assert n >= 50
            lowest = lowest_fair(1 - alpha, n, int(rows.sum()))
            # and not by naming everything: no more than asked for, up to the class that is always named
            assert lowest <= sets[rows, c].double().mean() <= 2 * (1 - alpha) - lowest + 0.02
    sizes = [float(sets[pattern == k].sum(1).double().mean()) for k in range(3)]
    assert sizes[0] < sizes[2] < sizes[1] < 5


def test_without_their_number_who_has_few_modalities_would_be_missed():
    """Why it is crossed: one quantile for all leaves the single modality short."""
    p, y, presence, _ = simulated(2000, seed=0)
    everyone = ConformalSets.fit(p, y, torch.ones_like(presence), 0.1)
    p, y, presence, pattern = simulated(20_000, seed=1)
    sets = torch.from_numpy(everyone.sets(p, torch.ones_like(presence)))
    assert (sets & y.bool()).any(1)[pattern == 1].double().mean() < 0.88


def test_every_class_is_covered_where_labels_are_many():
    alpha = 0.2
    p, y, presence, _ = simulated(6000, seed=2, labels=INDEPENDENT)
    conformal = ConformalSets.fit(p, y, presence, alpha, labels=INDEPENDENT)
    p, y, presence, pattern = simulated(20_000, seed=3, labels=INDEPENDENT)
    sets = torch.from_numpy(conformal.sets(p, presence))
    for k in range(3):
        for c in range(5):
            rows = (pattern == k) & y[:, c].bool()
            _, n = conformal.group(PATTERNS[k], c)
            assert sets[rows, c].double().mean() >= lowest_fair(1 - alpha, n, int(rows.sum()))
    assert sets.double().mean() < 0.9


def test_who_answers_for_a_class():
    """The first who are enough: 60 people have the first class, 40 another common one, 32 a rare one; nearly
    all have both modalities."""
    of_class = [60, 25, 15, 20, 12]
    y = np.eye(5)[np.repeat(np.arange(5), of_class)]
    p = np.random.default_rng(0).dirichlet(np.ones(5), len(y))
    presence = np.ones((len(y), 2), dtype=bool)
    presence[55:60, 0] = False  # of the first class
    rare = [False, False, False, True, True]

    def groups(presence, c, **settings):
        fitted = ConformalSets.fit(p, y, presence, **settings)
        return [fitted.group(np.arange(2) < k, c) for k in range(3)]

    both = ("with this class and 2 modalities", 55)
    assert groups(presence, 0, rare=rare)[1:] == [("with this class and any modalities", 60), both]
    for c in (1, 2):
        assert groups(presence, c, rare=rare)[2] == ("with a common class and 2 modalities", 40)
        assert groups(presence, c, rare=rare)[1] == ("with a common class and any modalities", 40)
    for c in (3, 4):
        assert groups(presence, c, rare=rare)[2] == ("with a rare class and 2 modalities", 32)
        assert groups(presence, c)[2] == ("with a common class and 2 modalities", 72)  # none is called rare
    presence[-3:] = False  # of the last class: too few rare people have both, but not in all
    assert groups(presence, 4, rare=rare)[2] == ("with a rare class and any modalities", 32)
    y, p, presence = y[:80], p[:80], presence[:80]  # beside the first class 20 people in all
    y[60:, 1:3], y[60:, 3] = 0, 1
    assert groups(presence, 3, rare=rare)[2] == ("with any class and 2 modalities", 75)
    assert groups(presence, 3, rare=rare)[1] == ("with any class and any modalities", 80)


def test_several_labels_answer_for_each_other_too():
    y = np.zeros((90, 3))
    y[:60, 0] = y[50:80, 1] = y[80:, 2] = 1
    p = np.random.default_rng(0).random((90, 3))
    fitted = ConformalSets.fit(p, y, np.ones((90, 1), bool), labels=INDEPENDENT, rare=[False, True, True])
    found = [fitted.group(np.ones(1, bool), c) for c in range(3)]
    assert found[0] == ("with this class and 1 modality", 60)
    assert found[1] == found[2] == ("with a rare class and 1 modality", 40)


def test_people_count_and_not_their_views():
    """Three people, of whom one is asked about five times: a third of the people each, whatever the views."""
    score = np.array([0.1, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9])
    p = np.stack([1 - score, score], 1)
    y, presence = np.tile([1.0, 0.0], (7, 1)), np.ones((7, 1), dtype=bool)
    person = ["a", "b", *"ccccc"]
    fitted = ConformalSets.fit(p, y, presence, 0.5, person=person)
    assert fitted.quantiles[0]["all"] == (0.5, 3, "all")  # the second of three, as ceil(.5 x 4)
    assert ConformalSets.fit(p, y, presence, 0.5).quantiles[0]["all"] == (0.9, 7, "all")
    assert ConformalSets.fit(p, y, presence, 0.2, person=person).quantiles[0]["all"].quantile == math.inf


def test_weights_lead_back_to_the_population():
    """Two of the first class, weighing 8, are worth sixteen of weight 1; a new one may weigh 8."""
    score = np.array([0.2, 0.4, 0.6, 0.8])
    p, y = np.stack([1 - score, score], 1), np.tile([1.0, 0.0], (4, 1))
    presence = np.ones((4, 1), dtype=bool)

    def quantile(alpha, weight):
        return ConformalSets.fit(p, y, presence, alpha, weight=weight).quantiles[0]["all"].quantile

    assert quantile(0.5, [8, 8, 1, 1]) == 0.4  # half of 18 + 8 is 13
    assert quantile(0.32, [8, 8, 1, 1]) == 0.8  # .68 of 26 is 17.7
    assert quantile(0.3, [8, 8, 1, 1]) == math.inf  # .7 of 26 is 18.2
    for alpha in (0.1, 0.32, 0.5, 0.7):
        assert quantile(alpha, [5, 5, 5, 5]) == quantile(alpha, None)
    with pytest.raises(ValueError, match=r"weight\[2\] is -1.0, expected a finite number of at least 0"):
        quantile(0.5, [1, 1, -1, 1])
    with pytest.raises(ValueError, match=r"weight \[3\], expected \[2\], \[4\] and \[4\]"):
        quantile(0.5, [1, 1, 1])


def test_sets_of_earlier_versions_answer_as_they_did():
    """One quantile for all classes, by pattern, by number, for all."""
    before = {"111": [0.5, 400], "2 present": [0.7, 120], "all": [0.8, 600]}
    old = ConformalSets.from_state({"alpha": 0.1, "multilabel": False, "quantiles": [before]})
    p = np.tile([0.45, 0.25, 0.3], (4, 1))
    presence = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=bool)
    expected = [[1, 0, 0], [1, 0, 1], [1, 0, 1], [1, 1, 1]]
    assert old.sets(p, presence).astype(int).tolist() == expected
    assert old.group(presence[0], 2) == ("with any class and the same modalities", 400)
    assert old.group(presence[1], 2) == ("with any class and 2 modalities", 120)
    assert old.group(presence[3], 2) == ("with any class and any modalities", 600)
    assert old.kept_for == "averaged over the classes"
    several = {"alpha": 0.1, "multilabel": True, "quantiles": [before, {"all": [0.2, 90]}]}
    old = ConformalSets.from_state(several)
    assert old.sets(p[:, :2], presence).astype(int).tolist() == [[0, 0], [1, 0], [1, 0], [1, 0]]
    assert old.group(presence[0], 1) == ("with this class and any modalities", 90)


def test_quantile_is_the_one_of_the_theorem():
    """n = 19 and alpha = .1: the 18th smallest of the scores; n = 8 cannot promise it: all classes."""
    score = torch.arange(1, 20) / 20
    p = torch.stack([1 - score, score], 1)
    y = torch.tensor([[1.0, 0.0]] * 19)
    present = torch.ones(19, 3, dtype=torch.bool)
    ((quantile, n, of),) = ConformalSets.fit(p, y, present, 0.1).quantiles[0].values()
    assert (quantile, n, of) == (pytest.approx(18 / 20), 19, "all")
    assert ConformalSets.fit(p[:9], y[:9], present[:9], 0.1).quantiles[0]["all"].quantile < 1  # 1 / alpha - 1
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
    p, y, presence, _ = simulated(700, seed=6, labels=INDEPENDENT)
    conformal = ConformalSets.fit(p, y, presence, 0.01, labels=INDEPENDENT)
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
@BOTH
def test_what_is_no_probability_makes_no_set(bad, labels):
    p, y, presence, _ = simulated(200, seed=8, labels=labels)
    conformal = ConformalSets.fit(p, y, presence, labels=labels)
    p[17, 3] = bad
    expected = rf"the probability of class 3 is {bad:.7g}\d* for row 17, expected a number in \[0, 1\]"
    with pytest.raises(ValueError, match=expected):
        ConformalSets.fit(p, y, presence, labels=labels)
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
        refused(rf"label\[4, 2\] is {bad}", label, labels=INDEPENDENT)
        partly = known.clone()
        partly[4] = False
        ConformalSets.fit(p, label, presence, known=partly)
    none, two = y.clone(), y.clone()
    none[6], two[6, :2] = 0, 1
    refused(r"label\[6\] names 0 classes, expected one", none)
    refused(r"label\[6\] names [23] classes, expected one", two)
    ConformalSets.fit(p, none, presence, labels=INDEPENDENT)
    for labels in (EXCLUSIVE, INDEPENDENT):
        refused("no class is known to hold for any of 30", known=~known, labels=labels)
    refused(r"known \[30, 4\]", known=known[:, :4])


def test_presence_says_yes_or_no():
    p, y, presence, _ = simulated(30, seed=9)
    with pytest.raises(ValueError, match=r"presence is float32 \[30, 4\], expected bool"):
        ConformalSets.fit(p, y, presence.float() * math.nan)
    with pytest.raises(ValueError, match=r"expected bool"):
        ConformalSets.fit(p, y, presence).sets(p, presence.int())


@BOTH
def test_sets_of_other_classes_are_refused(labels):
    p, y, presence, _ = simulated(30, seed=9, labels=labels)
    with pytest.raises(ValueError, match=r"probability is \[30, 4\], expected 5 classes"):
        ConformalSets.fit(p, y, presence, labels=labels).sets(p[:, :4], presence)


SETS = {"alpha": 0.1, "multilabel": False, "quantiles": [{"all": [0.5, 40, "all"]}]}
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
        (ConformalSets, {"quantiles": [{"all": [0.5, 40, "few"]}]}),
        (ConformalSets, {"quantiles": [{"all": [0.5, 40, "all", 1]}]}),
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
