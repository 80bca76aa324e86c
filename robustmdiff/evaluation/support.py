"""How many people a figure rests on, and whether they are enough for an interval.

The bootstrap draws from the people there are, so that its intervals are too short where they are few: those
of a mean of k numbers by the factor sqrt((k - 1) / k), "narrowness bias" (Hesterberg 2015). PEOPLE and SIDE
say where an interval is left out; docs/evaluation.md has the coverage measured on either side of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from robustmdiff.data.task import Task
from robustmdiff.evaluation.metrics import Truth
from robustmdiff.ranking import Bools

PEOPLE = 20  # of whom a figure is a share or a mean
SIDE = 10  # who have a class, and who have it not
BIN = 10  # records in a bin of a reliability curve
SHARES = ("coverage", "sensitivity95")  # of those who have a class


class Count(NamedTuple):
    """How many have a class, of how many of whom it is known: records, and the people whose they are."""

    records: int
    records_known: int
    people: int
    people_known: int

    @property
    def smaller_side(self) -> int:
        """The people who have the class, or those who have it not, whichever are fewer."""
        return min(self.people, self.people_known - self.people)


class Support(NamedTuple):
    """What a figure rests on.

    people    of whom it is a share or a mean, or who are ranked
    classes   of which it is made; none where it is one figure over all patients
    few       those of the classes which fewer than SIDE people have, or have not
    """

    people: int
    classes: tuple[str, ...] = ()
    few: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether an interval means anything: PEOPLE people, and fewer than half of the classes few."""
        return self.people >= PEOPLE and 2 * len(self.few) < max(len(self.classes), 1)

    def __str__(self) -> str:
        people = "1 person" if self.people == 1 else f"{self.people} people"
        classes = "1 class" if len(self.classes) == 1 else f"{len(self.classes)} classes"
        return f"{people}, {classes}" if self.classes else people


def counts(truth: Truth, persons: Sequence[str], classes: Sequence[str]) -> dict[str, Count]:
    """By class, of the records whose persons [n] are given. A person has a class who has it in any record."""
    found = {}
    for c, name in enumerate(classes):
        known = truth.known[:, c]
        has = known & truth.label[:, c]
        people = (people_of(persons, rows) for rows in (has, known))
        found[name] = Count(int(has.sum()), int(known.sum()), *people)
    return found


def people_of(persons: Sequence[str], rows: Bools) -> int:
    """How many people the rows, bool [n], are records of."""
    return len(set(np.array(persons)[rows].tolist()))


def support(
    metric: str, task: Task, truth: Truth, persons: Sequence[str], count: Mapping[str, Count]
) -> Support:
    """What a metric, by its name in `metrics.measure`, rests on."""
    what, _, of = metric.partition("/")
    names = _classes(of, task, count)
    if not of:
        return Support(people_of(persons, _rows(what, task, truth)))
    counted = truth.known & truth.label if what in SHARES else truth.known
    rows = counted[:, [task.classes.index(name) for name in names]].sum(-1) > 0
    few = () if what in SHARES else tuple(name for name in names if count[name].smaller_side < SIDE)
    return Support(people_of(persons, rows), names, few)


def _classes(of: str, task: Task, count: Mapping[str, Count]) -> tuple[str, ...]:
    """Those of a group or the one of that name; of a group those that both have and have not."""
    if of in task.classes:
        return (of,)
    both = [name for name, each in count.items() if 0 < each.records < each.records_known]
    if of in ("rare", "common"):
        both = [name for name in both if (name in task.rare) == (of == "rare")]
    return tuple(both)


def _rows(what: str, task: Task, truth: Truth) -> Bools:
    """bool [n]: the records that a figure over all patients counts."""
    if what == "set_size":
        return np.ones(len(truth.label), dtype=bool)
    if what == "coverage":
        return (truth.label & truth.known).sum(-1) > 0
    return task.labels.diagnosed(*truth)
