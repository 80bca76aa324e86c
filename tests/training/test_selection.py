from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmdiff.training.counts import Counts, count, rare_notes
from robustmdiff.training.selection import choose_monitor, macro_auroc_error


def two_classes(positive: int, negative: int) -> Counts:
    return Counts([positive, negative], [negative, positive], positive + negative)


def test_counts_are_of_what_is_known():
    label = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    known = torch.tensor([[True] * 3, [True, True, False], [True, False, True], [False] * 3])
    counts = count(label, known)
    assert counts == Counts([1, 1, 0], [2, 1, 2], 3)
    assert counts.contrasts == [(1, 2), (1, 1)]
    assert str(counts) == "3 patients, 2 of 3 classes"


def test_the_standard_error_is_that_of_exponential_scores():
    """Hanley and McNeil's formula is exact for them: P(positive > negative) = 1 / (1 + rate) = .8."""
    rng = np.random.default_rng(0)
    n1, n0, replicates = 7, 23, 20_000
    positive, negative = rng.exponential(4, (replicates, n1, 1)), rng.exponential(1, (replicates, 1, n0))
    auroc = (positive > negative).mean((1, 2))
    error = macro_auroc_error(Counts([n1], [n0], n1 + n0))
    assert auroc.mean() == pytest.approx(0.8, abs=5 * error / replicates**0.5)
    assert auroc.std() == pytest.approx(error, rel=5 / (2 * replicates) ** 0.5)


def test_a_mean_over_classes_is_surer_and_of_no_class_there_is_none():
    one = macro_auroc_error(Counts([9], [30], 39))
    assert macro_auroc_error(Counts([9] * 4, [30] * 4, 39)) == pytest.approx(one / 2)
    assert macro_auroc_error(Counts([9, 0], [30, 39], 39)) == one
    assert macro_auroc_error(Counts([0, 5], [5, 0], 5)) == float("inf")


@pytest.mark.parametrize(
    ("counts", "monitor", "n"),
    [
        pytest.param(Counts([0, 0], [0, 0], 0), "last", 0, id="nobody"),
        pytest.param(two_classes(1, 2), "last", 3, id="three-people"),
        pytest.param(two_classes(10, 9), "last", 19, id="nineteen"),
        pytest.param(two_classes(10, 10), "log_loss", None, id="twenty"),
        pytest.param(two_classes(3, 200), "log_loss", None, id="many-but-three-positives"),
        pytest.param(Counts([0, 30], [30, 0], 30), "log_loss", None, id="no-contrast"),
        pytest.param(Counts([0, 0], [30, 30], 30), "last", 30, id="no-positive"),
        pytest.param(two_classes(50, 50), "log_loss", None, id="a-hundred"),
    ],
)
def test_who_validates_settles_what_chooses(counts, monitor, n):
    chosen, notes = choose_monitor(None, counts)
    assert chosen == monitor
    assert [note.n for note in notes] == ([] if n is None else [n])


def test_what_is_asked_for_is_obeyed_and_weakness_is_said():
    few, many = two_classes(1, 2), two_classes(50, 50)
    chosen, (note,) = choose_monitor("macro_auroc", few)
    assert (chosen, note.n) == ("macro_auroc", 3)
    assert "which epoch was best is largely chance" in note.sentence
    assert choose_monitor("log_loss", few)[1][0].sentence.startswith("3 patients validate: which epoch")
    for asked in ("macro_auroc", "log_loss", "last"):
        assert choose_monitor(asked, many) == (asked, [])
    with pytest.raises(ValueError, match="no class with both kinds of patients, so there is no macro_auroc"):
        choose_monitor("macro_auroc", two_classes(0, 5))
    with pytest.raises(ValueError, match="no class is known to hold for any of patients_valid"):
        choose_monitor("log_loss", Counts([0], [7], 7))


def test_classes_of_few_or_no_training_patients_are_named():
    notes = rare_notes(("none", "flu", "tb", "pe"), Counts([40, 9, 2, 0], [11, 42, 49, 51], 51))
    assert [(note.topic, note.n) for note in notes] == [("few", 2), ("unseen", 0)]
    assert "'tb' (2), 'flu' (9)" in notes[0].sentence
    assert "'pe'" in notes[1].sentence
    assert rare_notes(("a", "b"), two_classes(10, 11)) == []
