"""Who trains, who calibrates, who is tested: split by person, saved as a file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from robustmdiff.data.patient import DataError, Patient
from robustmdiff.refusal import Refusal
from robustmdiff.spelling import canonical
from robustmdiff.whole import write_whole

Split = dict[str, tuple[str, ...]]


def split_patients(
    patients: Sequence[Patient | str],
    fractions: Mapping[str, float],
    seed: int,
    stratify: Sequence[Hashable] | None = None,
) -> Split:
    """Ids by split name, each id in one, all records of one `Patient.person` in the same.

    patients    patients, or ids where every id is a person.
    fractions   of people, by split name ({"train": 0.7, "calibration": 0.1, "test": 0.2}), sum 1.
    stratify    one label per patient; each label is spread over the splits in proportion (a
                group counts under its rarest label), a label of few goes to the largest first.

    The same people, fractions and seed give the same split, in whatever order they come.
    """
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(
            f"split_patients: fractions are {dict(fractions)}, expected numbers >= 0 that sum to 1"
        )
    groups = _groups(patients)
    rng = np.random.default_rng(seed)
    split: dict[str, list[str]] = {name: [] for name in fractions}
    for members in _strata(groups, patients, stratify).values():
        taken = Counter[str]()
        for i, g in enumerate(rng.permutation(len(members)), start=1):
            name = max(fractions, key=lambda name: fractions[name] * i - taken[name])
            taken[name] += 1
            split[name] += groups[members[g]]
    return {name: tuple(sorted(ids)) for name, ids in split.items()}


def grouped_folds(
    patients: Sequence[Patient | str],
    labels: Sequence[Hashable] | None = None,
    *,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
) -> list[tuple[tuple[str, ...], ...]]:
    """Test ids of repeated stratified k-fold cross-validation by person: [repeat][fold].

    In each repeat every id is in one fold, all records of a group in the same one, and each
    label's records are spread as evenly as the groups allow. A label of fewer people than
    folds is absent from some.
    """
    groups = _groups(patients)
    if not 2 <= folds <= len(groups):
        raise Refusal(f"grouped_folds: folds is {folds}, expected 2 to {len(groups)}, the number of people")
    result = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        fold: list[list[str]] = [[] for _ in range(folds)]
        for members in _strata(groups, patients, labels).values():
            shuffled = [members[g] for g in rng.permutation(len(members))]
            shuffled.sort(
                key=lambda group: -len(groups[group])
            )  # the large first, so that small ones even out
            here = [0] * folds
            for group in shuffled:
                f = min(range(folds), key=lambda f: (here[f], len(fold[f])))
                here[f] += len(groups[group])
                fold[f] += groups[group]
        result.append(tuple(tuple(sorted(ids)) for ids in fold))
    return result


def hold_out(patients: Sequence[Patient], seed: int) -> tuple[list[Patient], list[Patient]]:
    """A tenth of the people to validate on, stratified by label; the rest trains."""
    split = split_patients(patients, {"fit": 0.9, "watch": 0.1}, seed, stratify=labels_of(patients))
    by_id = {patient.id: patient for patient in patients}
    return [by_id[id] for id in split["fit"]], [by_id[id] for id in split["watch"]]


def labels_of(patients: Sequence[Patient]) -> list[str]:
    """The first class that holds for each patient, to stratify by; "" where none does."""
    return [next((name for name, holds in p.labels.items() if holds), "") for p in patients]


def save_split(path: str | Path, split: Mapping[str, Sequence[str]]) -> None:
    """Writes {"train": [ids], ...} as JSON, in one step."""
    content = json.dumps({name: list(ids) for name, ids in split.items()}, indent=1, ensure_ascii=False)
    write_whole(Path(path), content.encode())


def load_split(path: str | Path, patients: Sequence[Patient | str] | None = None) -> Split:
    """The split of `save_split`, checked: nobody twice and, against `patients` (whose spelling of the
    ids it then has), nobody unknown and no person on two sides. Patients in no split are left out of
    the study."""
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a split ({error}), expected JSON of save_split"
        ) from error
    if not isinstance(read, dict) or not all(
        isinstance(ids, list) and all(isinstance(id, str) for id in ids) for ids in read.values()
    ):
        raise DataError(f'{path}: is no split, expected {{"train": [ids], ...}}')

    record_of = None  # the person and the id, by the id as names are compared
    if patients is not None:
        record_of = {canonical(id): (group, id) for group, ids in _groups(patients).items() for id in ids}
    split_of: dict[str, str] = {}
    side: dict[str, tuple[str, str]] = {}  # of each person: the split and the id that put them there
    split: dict[str, list[str]] = {name: [] for name in read}
    for name, ids in read.items():
        for id in ids:
            key = canonical(id)
            if key in split_of:
                raise DataError(
                    f"{path}: id {id!r} is in {split_of[key]!r} and in {name!r}, expected one of them"
                )
            split_of[key] = name
            if record_of is None:
                split[name].append(id)
                continue
            if key not in record_of:
                raise DataError(
                    f"{path}: id {id!r} in {name!r} is unknown, expected ids of these {len(record_of)}"
                )
            person, own = record_of[key]
            split[name].append(own)
            other, first = side.setdefault(person, (name, id))
            if other != name:
                raise DataError(
                    f"{path}: {first!r} in {other!r} and {id!r} in {name!r} are the same person "
                    f"({person!r}), expected one split"
                )
    return {name: tuple(ids) for name, ids in split.items()}


def _groups(patients: Sequence[Patient | str]) -> dict[str, list[str]]:
    """Ids by person, sorted, so that the order of patients changes nothing."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for patient in patients:
        if isinstance(patient, str):
            groups[canonical(patient)].append(patient)
        else:
            groups[patient.person].append(patient.id)
    ids = Counter(canonical(id) for members in groups.values() for id in members)
    twice = sorted(id for id, n in ids.items() if n > 1)
    if twice:
        raise DataError(f"patients: id {twice[0]!r} occurs {ids[twice[0]]} times, expected distinct ids")
    return {group: sorted(groups[group]) for group in sorted(groups)}


def _strata(
    groups: Mapping[str, Sequence[str]], patients: Sequence[Patient | str], labels: Sequence[Hashable] | None
) -> dict[str, list[str]]:
    """Groups by the rarest label among their records."""
    if labels is None:
        return {"": list(groups)}
    if len(labels) != len(patients):
        raise ValueError(
            f"labels: there are {len(labels)}, expected one for each of {len(patients)} patients"
        )
    count = Counter(map(str, labels))
    label_of = {
        patient if isinstance(patient, str) else patient.id: str(label)
        for patient, label in zip(patients, labels, strict=True)
    }
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for group, ids in groups.items():
        strata[min((label_of[id] for id in ids), key=lambda label: (count[label], label))].append(group)
    return {label: strata[label] for label in sorted(strata)}
