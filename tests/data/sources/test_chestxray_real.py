"""The real copy of the COVID-19 image collection, where it lies beside the repository."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

from robustmdiff.data.collate import Collator
from robustmdiff.data.diagnosis_words import WORDS
from robustmdiff.data.sources.chestxray import (
    TEACHING_FILES,
    covid_task,
    load_chestxray,
    verify,
)
from robustmdiff.data.splits import split_patients
from robustmdiff.data.tokenizer import train_tokenizer

REAL = Path(__file__).parents[3] / "../shared/data/chestxray"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/chestxray is not here")


# What names each class of the real copy, written down apart from the loader's own list.
OWN_WORDS = {
    "Pneumonia": ["pneumonia", "pneumonic"],
    "Viral": ["virus", "viral"],
    "COVID-19": ["covid", "corona", "sars", "ncov", "cov2", "cov-2", "wuhan", "pandemic"],
    "Influenza": ["influenza", "h1n1"],
    "Varicella": ["varicella", "chickenpox", "zoster"],
    "Bacterial": ["bacteri"],
    "Streptococcus": ["strep", "pneumococ"],
    "Mycoplasma": ["mycoplasma"],
    "Klebsiella": ["klebsiella"],
    "Legionella": ["legionel"],
    "E.Coli": ["coli ", "escherichia"],
    "Fungal": ["fungal", "fungus"],
    "Pneumocystis": ["pneumocystis", "pcp", "jirovec", "carinii"],
    "Lipoid": ["lipoid", "mineral oil"],
    "ARDS": ["ards", "respiratory distress"],
    "No Finding": ["no finding"],
}


@real
def test_no_note_of_the_real_copy_names_its_own_label():
    patients, _ = load_chestxray(REAL, image_size=8)
    original = {}
    with (REAL / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            original[f"{row['patientid']}/{row['offset']}/{row['filename']}"] = row["clinical_notes"].lower()
    named_before = 0
    for patient in patients:
        note = (patient.modalities["notes"] or "").lower()
        (label,) = patient.labels
        words = [word for node in label.split("/") for word in OWN_WORDS[node]]
        named_before += any(re.search(rf"\b{word}", original[patient.id]) for word in words)
        found = [word for word in words if re.search(rf"\b{word}", note)]
        assert not found, f"{patient.source}: {found} of {label} still in {note!r}"
        assert not any(site.split(".")[0] in note for site in TEACHING_FILES)
    assert named_before >= 80  # the trap is there, or this test proves nothing
    assert set(WORDS) >= {
        node for patient in patients for label in patient.labels for node in label.split("/")
    }


REMNANTS = re.compile(
    r"[(\[]\s*[)\]]|[,;:]\s*[,;.]|\s[,;.)]|[-–]\s*[,;.)]|\w[-–]\s|\s[-–]\w|\W(?:19|2)\W|\bn?cov\b"
    r"|\bswabs?\b|\bpolymerase\b|\btested (?:positive|for)\b",
    re.IGNORECASE,
)


@real
def test_no_note_of_the_real_copy_shows_where_a_word_was():
    patients, _ = load_chestxray(REAL, image_size=8)
    with (REAL / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        original = {
            f"{row['patientid']}/{row['offset']}/{row['filename']}": " ".join(row["clinical_notes"].split())
            for row in csv.DictReader(file)
        }
    before = 0
    for patient in patients:
        note = patient.modalities["notes"] or ""
        new = [
            m
            for m in REMNANTS.finditer(note)
            if note[max(m.start() - 8, 0) : m.end()] not in original[patient.id]
        ]
        assert not new, f"{patient.source}: {new} in {note!r}"
        before += bool(re.search("covid|sars", original[patient.id], re.IGNORECASE))
    assert before >= 40  # as above


@real
def test_the_real_copy_has_the_counts_of_its_readme():
    counts = verify(REAL)
    assert (counts["rows"], counts["images present"], counts["patients"]) == (260, 260, 117)
    assert (counts["x-ray"], counts["ct"], counts["notes"]) == (231, 29, 203)
    assert len(counts["classes"]) == 14
    assert counts["classes"]["Pneumonia/Viral/COVID-19"] == 164
    assert (counts["values"]["pO2"], counts["values"]["SpO2"]) == (32, 6)


@real
def test_the_real_copy_becomes_one_batch_and_a_split_by_person():
    patients, task = load_chestxray(REAL, image_size=16)
    batch = Collator(task, train_tokenizer([p.modalities["notes"] or "" for p in patients]))(patients)
    assert batch.presence.sum(0).tolist() == [231, 29, 203, 260]
    pixels = batch.inputs["xray"].pixels
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.reshape(len(pixels), -1).std(1).min() > 0.01  # no blank image
    assert batch.label.sum(1).tolist() == [1] * 260
    split = split_patients(patients, {"train": 0.7, "test": 0.3}, 0, [next(iter(p.labels)) for p in patients])
    person = {patient.id: patient.group for patient in patients}
    assert not {person[id] for id in split["train"]} & {person[id] for id in split["test"]}


@real
def test_the_covid_task_of_the_real_copy():
    patients, task = covid_task(REAL, image_size=8)
    people = {name: {p.group for p in patients if name in p.labels} for name in task.classes}
    assert {name: len(groups) for name, groups in people.items()} == {"COVID-19": 42, "other pneumonia": 35}
    assert not people["COVID-19"] & people["other pneumonia"]
    assert {patient.site for patient in patients} == set(TEACHING_FILES)
    for site in TEACHING_FILES:  # the source does not give the answer away
        assert {name for p in patients if p.site == site for name in p.labels} == set(task.classes)
    assert not any(math.isnan(patient.age) for patient in patients if patient.age is not None)
