from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.support2 import COLUMNS, GROUPS, load_support2, verify

REAL = Path(__file__).parents[3] / "../shared/data/support2"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/support2 is not here")

NEVER = (
    *("hospdead", "death", "d.time", "slos", "sfdm2", "charges", "totcst", "totmcst", "surv2m", "surv6m"),
    *("prg2m", "prg6m", "dnr", "dnrday", "hday", "avtisst", "sps", "aps", "adlsc"),
)
KNOWN = {"age": "62.5", "sex": "female", "meanbp": "97", "hospdead": "0", "death": "0", "d.time": "2029"}


def study(root: Path, *rows: dict[str, str]) -> Path:
    header = ["", *(name for name in COLUMNS if name != "id"), *(set(NEVER) - set(COLUMNS))]
    with (root / "support2.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, header)
        table.writeheader()
        table.writerows({"": str(i + 1), **KNOWN, **row} for i, row in enumerate(rows))
    return root


def test_what_a_row_says(tmp_path):
    row = {
        "dzgroup": "Lung Cancer",
        "num.co": "2",
        "ca": "metastatic",
        "temp": "36.59375",
        "bun": "",
        "adls": "7",
    }
    (patient,), task = load_support2(study(tmp_path, {**row, "income": ">$50k", "diabetes": "1"}))
    assert patient.modalities == {
        "demographics": {"age": 62.5, "sex": "female", "income": ">$50k"},
        "diagnosis": {"dzgroup": "Lung Cancer", "num.co": 2, "diabetes": "1", "ca": "metastatic"},
        "vitals": {"meanbp": 97, "temp": 36.59375},
        "laboratory": None,
        "function": {"adls": 7},
    }
    assert (patient.id, patient.age) == ("1", 62.5)
    assert len(Collator(task)([patient])) == 1


def test_outcomes_predictions_and_later_decisions_are_no_inputs():
    assert not {field.name for fields in GROUPS.values() for field in fields} & set(NEVER)


SIX_MONTHS = {
    "died within": ({"death": "1", "d.time": "43"}, "death within six months"),
    "died on the last day": ({"death": "1", "d.time": "180"}, "death within six months"),
    "died later": ({"death": "1", "d.time": "181"}, "alive after six months"),
    "seen alive on the last day": ({"death": "0", "d.time": "180"}, "alive after six months"),
    "seen alive later": ({"death": "0", "d.time": "344"}, "alive after six months"),
    "last seen alive before": ({"death": "0", "d.time": "179"}, None),
    "not known when": ({"death": "1", "d.time": ""}, None),
}


@pytest.mark.parametrize(("row", "label"), SIX_MONTHS.values(), ids=SIX_MONTHS.keys())
def test_six_months_are_180_days_and_who_was_lost_before_is_unknown(tmp_path, row, label):
    (patient,), _ = load_support2(study(tmp_path, row))
    assert patient.labels == ({label: True} if label else {})


def test_death_in_hospital_is_asked_by_its_own_column(tmp_path):
    rows = [{"hospdead": "1", "death": "1", "d.time": "300"}, {"hospdead": "0"}, {"hospdead": ""}]
    patients, task = load_support2(study(tmp_path, *rows), "hospital_death")
    assert [list(patient.labels) for patient in patients] == [["death in hospital"], ["discharged alive"], []]
    assert task.classes == ("death in hospital", "discharged alive")


def test_the_physician_s_estimate_of_survival_becomes_one_of_either_class(tmp_path):
    root = study(tmp_path, {"prg6m": "2.00E-01"}, {"prg6m": ""}, {"prg6m": "1"})
    stated, silent, certain = (patient.estimate for patient in load_support2(root)[0])
    assert stated == {"death within six months": 0.8, "alive after six months": 0.2}
    assert silent == {}
    assert certain == {"death within six months": 0, "alive after six months": 1}
    assert all(not patient.estimate for patient in load_support2(root, "hospital_death")[0])
    assert verify(root)["physicians' estimates"] == 2


BAD = {
    "number": (
        {"crea": "high"},
        r"support2\.csv:2, column 'crea': is 'high', expected a number of 0 or more",
    ),
    "missing mark": ({"alb": "NA"}, r"column 'alb': is 'NA'.*leave the cell blank"),
    "category": ({"race": "green"}, r"column 'race': is 'green', expected one of white, black"),
    "Fahrenheit": ({"temp": "98.6"}, r"column 'temp': is '98\.6', expected a number from 25 to 45"),
    "flag": ({"death": "maybe"}, r"column 'death': is 'maybe', expected one of 1, 0"),
    "percent": ({"prg6m": "50"}, r"column 'prg6m': is '50', expected a number from 0 to 1"),
    "no number": ({"": ""}, r"column 'id': is '', expected a number of the row"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        load_support2(study(tmp_path, bad))


def test_a_patient_twice_and_a_target_that_is_none(tmp_path):
    with pytest.raises(
        DataError, match=r"support2\.csv:3, column 'id': is '7', expected each patient once \(.*:2"
    ):
        load_support2(study(tmp_path, {"": "7"}, {"": "7"}))
    with pytest.raises(
        ValueError, match="target is 'surv6m', expected one of six_month_death, hospital_death"
    ):
        load_support2(tmp_path, "surv6m")


@real
def test_the_real_copy_has_the_counts_of_its_table():
    with (REAL / "support2.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    patients, task = load_support2(REAL)
    dead = [row["death"] == "1" and float(row["d.time"]) <= 180 for row in rows]
    assert min(float(row["d.time"]) for row in rows if row["death"] == "0") == 344  # so that none is unknown
    assert [patient.labels.get("death within six months", False) for patient in patients] == dead
    assert (len(rows), sum(dead)) == (7160, 3325)
    for patient, row in zip(patients, rows, strict=True):
        for name, fields in GROUPS.items():
            measured = {field.name for field in fields if row[field.name]}
            assert set(patient.modalities[name] or {}) == measured
        if row["prg6m"]:
            assert patient.estimate["alive after six months"] == float(row["prg6m"])
        else:
            assert patient.estimate == {}
    assert [sum(p.has(name) for p in patients) for name in GROUPS] == [7160, 7160, 7160, 7160, 5534]
    assert verify(REAL)["physicians' estimates"] == sum(bool(row["prg6m"]) for row in rows) == 5868
    hospital, _ = load_support2(REAL, "hospital_death")
    died = Counter(name for patient in hospital for name in patient.labels)
    assert died == {"death in hospital": 1808, "discharged alive": 5352}
    assert len(Collator(task)(patients[:50])) == 50
