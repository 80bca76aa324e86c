"""On whom a figure rests, and what the report says where they are too few."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.task import Task
from robustmdiff.evaluation import metrics, plots
from robustmdiff.evaluation.conditions import COMPLETE
from robustmdiff.evaluation.masks import draw_masks
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.evaluation.report import headline, to_json, write_report
from robustmdiff.evaluation.results import Results
from robustmdiff.evaluation.statistics import Interval, interval, resamples
from robustmdiff.evaluation.support import PEOPLE, SIDE, Support
from robustmdiff.evaluation.tables import NEAR_CHANCE

CLASSES = ("well", "ill", "rarely seen")
TASK = Task(
    modalities=(Modality("a", "values", fields=(Field("x"),)), Modality("b", "text")),
    classes=CLASSES,
    prevalence=(0.5, 0.4, 0.1),
    rare=("rarely seen",),
)
TOO_FEW = "(too few)"


def answered(of_class, skill=3.0, records=1, task=TASK):
    """As many people of each class, `records` of each person; answers tell the class by `skill`."""
    y = np.repeat(np.arange(len(of_class)), of_class).repeat(records)
    n, rng = len(y), np.random.default_rng(0)
    ids, persons = [f"r{i:03}" for i in range(n)], [f"p{i // records:03}" for i in range(n)]
    label = np.eye(len(task.classes), dtype=bool)[y]
    truth = Truth(label, np.ones_like(label))
    presence = np.ones((n, 2), dtype=bool)
    masks = draw_masks(ids, presence, task.modality_names)
    found = Results(task, masks, presence, truth, groups=tuple(persons))
    weights = resamples(persons, 50)
    for name, strength in (("ours", skill), ("coin", 0.0)):
        p = np.exp(strength * label + rng.normal(size=label.shape))
        for condition in masks.keep:
            p_here = p / p.sum(1, keepdims=True)
            found.add(name, condition, p_here, weights, p_here > 0.2 if name == "ours" else None)
    return found


def report(found, folder):
    return write_report(found, folder).read_text(encoding="utf-8")


def test_support_of_each_metric():
    found = answered((60, 30, 4), records=2)
    assert found.support("accuracy") == found.support("set_size") == Support(94)
    assert found.support("auroc/macro") == Support(94, CLASSES, ("rarely seen",))
    assert found.support("auroc/common") == Support(94, CLASSES[:2])
    assert found.support("auprc/rarely seen") == Support(94, CLASSES[2:], CLASSES[2:])
    assert found.support("coverage/ill") == Support(30, ("ill",))
    assert found.support("sensitivity95/rare") == Support(4, ("rarely seen",))
    assert found.support("sensitivity95/common") == Support(90, CLASSES[:2])
    assert str(found.support("auroc/macro")) == "94 people, 3 classes"
    assert str(answered((1, 0, 0)).support("coverage/well")) == "1 person, 1 class"


def test_people_who_have_a_class_are_counted_once_where_labels_are_many():
    several = replace(TASK, multilabel=True)
    found = answered((30, 30, 30), task=several)
    label = found.truth.label.copy()
    label[:, 0] = True
    label[:12, 0] = False
    known = np.ones_like(label)
    known[:5] = False
    found = replace(found, truth=Truth(label, known))
    assert found.support("brier") == Support(85)
    assert found.support("set_size") == Support(90)
    assert found.counts["well"].smaller_side == 7
    assert found.support("sensitivity95/common") == Support(78, CLASSES[:2])  # "well" or "ill", not summed
    assert found.support("ece/classwise").few == ("well",)


@pytest.mark.parametrize(
    ("support", "enough"),
    [
        (Support(PEOPLE), True),
        (Support(PEOPLE - 1), False),
        (Support(300, ("a",)), True),
        (Support(300, ("a",), ("a",)), False),
        (Support(300, ("a", "b"), ("a",)), False),
        (Support(300, ("a", "b", "c"), ("a",)), True),
    ],
)
def test_what_is_enough(support, enough):
    assert support.enough is enough


def coverage_of_interval(people, have, trials=200):
    """How often the interval of the AUROC (.9 in truth: d' = 1.81) holds it, `have` of `people` positive."""
    rng, positive, hits = np.random.default_rng(3), np.arange(people) < have, 0
    for trial in range(trials):
        weight = resamples([str(i) for i in range(people)], 200, seed=trial)
        score = rng.normal(size=people) + 1.8124 * positive
        hits += (
            (found := interval(metrics.Ranking.of(score, positive, weight).auroc())).low <= 0.9 <= found.high
        )
    return hits / trials


def test_the_rule_separates_intervals_that_hold_from_those_that_do_not():
    """.558 and .857 of 2,000 trials (docs/evaluation.md), and three binomial errors of so many fewer."""
    error = {rate: 3 * np.sqrt(rate * (1 - rate) / 200) for rate in (0.558, 0.857)}
    assert coverage_of_interval(100, 2) < 0.558 + error[0.558]
    assert coverage_of_interval(100, SIDE) > 0.857 - error[0.857]


def test_eight_people_get_numbers_and_no_intervals(tmp_path, undrawn):
    found = answered((4, 4, 0), skill=50.0)
    value, low, high = found.interval("ours", COMPLETE, "auroc/macro")
    assert value == 1.0
    assert np.isnan([low, high]).all()
    assert np.isnan(found.area("ours").low)
    assert np.isnan(found.difference("ours", "coin", COMPLETE, "accuracy").low)
    text = report(found, tmp_path)
    assert "Tested: 8 people, 8 records." in text
    assert "- 8 people: too few for any interval." in text
    assert "Fewer than 10 people have, or have not: well (4), ill (4)." in text
    assert "| rests on | 8 people, 2 classes |" in text
    assert f"| ours | 1.000 {TOO_FEW} |" in text
    assert "1.000 to 1.000" not in text
    assert "nan" not in text
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert stored["methods"]["ours"]["conditions"]["mcar/0.0"]["auroc/macro"] == [1.0, None, None]
    assert stored["support"]["auroc/macro"] == {
        "people": 8,
        "classes": ["well", "ill"],
        "few": ["well", "ill"],
        "enough": False,
    }


def test_no_empty_curves_are_drawn_of_eight_people(tmp_path):
    text = report(answered((4, 4, 0)), tmp_path)
    assert not (tmp_path / "reliability.png").exists()
    assert not (tmp_path / "reliability_classes.png").exists()
    assert "No reliability curve: no bin of stated probability holds 10 records." in text


def test_a_class_of_a_handful_has_no_interval_beside_those_that_have(tmp_path, undrawn):
    found = answered((60, 30, 4), skill=1.0)
    assert np.isfinite(found.interval("ours", COMPLETE, "auroc/macro").low)
    assert np.isnan(found.interval("ours", COMPLETE, "auroc/rarely seen").low)
    text = report(found, tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| rarely seen | 4 of 94 | 4 of 94 |"))
    assert row.count(TOO_FEW) == 8  # AUROC, AUPRC, ECE and coverage, twice each
    row = next(line for line in text.splitlines() if line.startswith("| ill | 30 of 94 |"))
    assert TOO_FEW not in row
    assert str(found.interval("ours", COMPLETE, "auprc/ill")) in row
    assert str(found.interval("ours", found.half, "coverage/ill")) in row
    assert "too few for any interval" not in text


def test_retention_of_chance_is_said_to_be_not_measurable(tmp_path, undrawn):
    found = answered((60, 30, 12))
    assert found.near_chance("coin")
    assert found.retained("coin", found.half) is None
    assert found.retained("ours", found.half).value == 1.0  # the same answers under every condition
    text = report(found, tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| coin |"))
    assert row.count(NEAR_CHANCE) == 3  # retention and both areas
    rows = {row["method"]: row for row in headline(found)}
    assert rows["coin"]["area under retention"] == NEAR_CHANCE
    assert rows["ours"]["area under retention"] == 1.0
    assert rows["ours"]["people"] == rows["ours"]["records"] == 102
    assert rows["ours"]["classes"] == 3
    assert to_json(found)["methods"]["coin"]["area_under_retention"] == {}


def test_a_ceiling_of_chance_is_said_to_be_no_measure(tmp_path, undrawn):
    found = answered((60, 30, 12))
    found.values["ceiling"] = found.values["coin"]
    found.probability["ceiling"] = found.probability["coin"]
    assert "not measurable: the ceiling is near chance" in report(found, tmp_path)


def test_reliability_of_every_class_is_drawn():
    found = answered((60, 30, 12))
    figure = plots.reliability_classes(found)
    titles = [ax.get_title().replace("\u00a0", " ") for ax in figure.axes]
    assert titles[:3] == ["well (n = 60)", "ill (n = 30)", "rarely seen (n = 12)"]
    stated, right, records = found.reliability("ours", found.half, "well")
    line = figure.axes[0].get_lines()[1]
    np.testing.assert_array_equal(line.get_xdata(), stated[records >= 10])
    np.testing.assert_array_equal(line.get_ydata(), right[records >= 10])
    plots.plt.close(figure)


def test_an_interval_as_it_is_read():
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
    assert str(Interval(1.0, np.nan, np.nan)) == "1.000 (too few)"
    assert str(Interval(0.5, 0.5, 0.5)) == "0.500 (no spread)"
