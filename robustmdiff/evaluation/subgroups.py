"""Who has something in common: the tested patients by site, sex and age, as far as these are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from robustmdiff.data.patient import Patient
from robustmdiff.ranking import Bools
from robustmdiff.spelling import canonical

EVERYONE = "everyone"
BANDS = ((0, "under 18"), (18, "18 to 39"), (40, "40 to 64"), (65, "65 or older"))  # from which age on, years


def groups_of(patient: Patient) -> tuple[str, ...]:
    """The names of a patient's groups, such as "site Hannover", "sex female" and "age 40 to 64".

    The age is the patient's own or else, as the sex always, what a panel says in a field of that name: a
    number of years, and a word. What is not recorded makes no group.
    """
    groups = [f"site {patient.site}"] if patient.site else []
    sex = _in_a_panel(patient, "sex")
    if isinstance(sex, str):
        groups.append(f"sex {sex}")
    age = _in_a_panel(patient, "age") if patient.age is None else patient.age
    if not isinstance(age, str | None):
        groups += [f"age {name}" for least, name in BANDS if age >= least][-1:]
    return tuple(groups)


def subgroups(groups: Sequence[Sequence[str]]) -> dict[str, Bools]:
    """Name to bool [n], of n patients whose groups are given: everyone, then the sites, the sexes and the
    ages, those of a kind in their order. Empty where nobody is in any group."""
    place = {f"age {name}": i for i, (_, name) in enumerate(BANDS)}
    kinds = ("site", "sex", "age")
    names = {name for each in groups for name in each}
    ordered = sorted(names, key=lambda name: (kinds.index(name.split()[0]), place.get(name, 0), name))
    found = {name: np.array([name in each for each in groups], dtype=bool) for name in ordered}
    return {EVERYONE: np.ones(len(groups), dtype=bool)} | found if found else {}


def _in_a_panel(patient: Patient, name: str) -> float | str | None:
    for observation in patient.modalities.values():
        if isinstance(observation, Mapping):
            for field, value in observation.items():
                if canonical(field).casefold() == name:
                    return value
    return None
