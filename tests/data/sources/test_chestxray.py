from __future__ import annotations

import csv
import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.diagnosis_words import WORDS, mask_diagnosis
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.chestxray import (
    FIELDS,
    OPTIONAL,
    REQUIRED,
    TEACHING_FILES,
    covid_task,
    load_chestxray,
    verify,
)
from robustmdiff.data.splits import split_patients
from robustmdiff.data.study import readable
from robustmdiff.data.tokenizer import train_tokenizer

REAL = Path(__file__).parents[3] / "../shared/data/chestxray"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real copy ../shared/data/chestxray is not here")

HEADER = [*REQUIRED, "temperature", "pO2_saturation", "leukocyte_count", "location", "folder", "doi"]
ROW = {
    "patientid": "7b",
    "offset": "3",
    "sex": "F",
    "age": "61",
    "finding": "Pneumonia/Viral/COVID-19",
    "view": "AP Supine",
    "modality": "X-ray",
    "filename": "a.png",
    "url": "https://radiopaedia.org/cases/covid-19-pneumonia-15",
    "clinical_notes": "Fever. Confirmed COVID-19.",
    "folder": "images",
}

OLD = {
    "patientid": "Patientid",
    "clinical_notes": "clinical notes",
    "pO2_saturation": "pO2 saturation",
    "leukocyte_count": "wbc_count",
}
NOW = {old: new for new, old in OLD.items()}


def collection(
    root: Path, *rows: dict[str, str], header: list[str] | None = None, images: bool = True
) -> Path:
    header = header or HEADER
    (root / "images").mkdir(exist_ok=True)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows([{**ROW, **row}.get(NOW.get(name, name), "") for name in header] for row in rows)
    for row in rows if images else ():
        Image.fromarray(np.full((9, 7), 128, np.uint8)).save(root / "images" / {**ROW, **row}["filename"])
    return root


def test_a_row_becomes_a_patient(tmp_path):
    rows = [
        {},
        {"modality": "CT", "filename": "b.png", "view": "axial", "sex": "", "age": "", "clinical_notes": ""},
    ]
    (xray, ct), task = load_chestxray(collection(tmp_path, *rows), image_size=8)
    assert (xray.id, xray.group, xray.source, xray.age) == ("7b/3/a.png", "7b", "metadata.csv:2", 61)
    assert xray.site == "radiopaedia.org"
    assert xray.labels == {"Pneumonia/Viral/COVID-19": True}
    assert xray.modalities["notes"] == "Fever. Confirmed."
    assert xray.modalities["structured"] == {"sex": "F", "age": 61, "view": "AP Supine"}
    assert (xray.has("xray"), xray.has("ct"), ct.has("xray"), ct.has("ct"), ct.has("notes")) == (
        1,
        0,
        0,
        1,
        0,
    )
    assert ct.modalities["structured"] == {"view": "Axial"}
    assert task.modality("xray").shape == (1, 8, 8)
    assert len(Collator(task, train_tokenizer(["fever"]))([xray, ct])) == 2


@pytest.mark.parametrize(
    ("level", "classes"),
    [
        (1, ("Pneumonia", "No Finding")),
        (2, ("Pneumonia/Viral", "No Finding", "Pneumonia")),
        (3, ("No Finding", "Pneumonia", "Pneumonia/Viral/COVID-19", "Pneumonia/Viral/SARS")),
    ],
)
def test_every_prefix_of_the_finding_is_a_label(tmp_path, level, classes):
    findings = [
        "Pneumonia/Viral/COVID-19",
        "Pneumonia/Viral/SARS",
        "Pneumonia",
        "No Finding",
        "todo",
        "Unknown",
        "",
    ]
    rows = [{"finding": finding, "filename": f"{i}.png"} for i, finding in enumerate(findings)]
    patients, task = load_chestxray(collection(tmp_path, *rows), 8, level)
    assert task.classes == classes
    assert sum(task.prevalence) == pytest.approx(1)
    assert [len(patient.labels) for patient in patients] == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param([OLD.get(name, name) for name in HEADER], id="spring 2020"),
        pytest.param([*REQUIRED, ""], id="without labs, with a trailing empty column"),
        pytest.param([*REQUIRED, *OPTIONAL], id="everything published"),
    ],
)
def test_every_published_header_is_read(tmp_path, header):
    root = collection(tmp_path, {"finding": "COVID-19, ARDS"}, header=header)
    (patient,), task = load_chestxray(root, 8)
    assert task.classes == ("Pneumonia/Viral/COVID-19",)
    assert (patient.group, patient.modalities["notes"]) == ("7b", "Fever. Confirmed.")
    (root / "metadata.csv.gz").write_bytes(gzip.compress((root / "metadata.csv").read_bytes()))
    (root / "metadata.csv").unlink()
    assert load_chestxray(root, 8)[0][0].id == patient.id


def test_oxygen_is_two_quantities(tmp_path):
    rows = [
        {"pO2_saturation": "91"},
        {
            "pO2_saturation": "40",
            "filename": "b.png",
            "url": "https://github.com/ml-workgroup/covid-19-image-repository",
        },
        {
            "pO2_saturation": "340",
            "filename": "c.png",
            "location": "Hannover Medical School, Hannover, Germany",
        },
    ]
    patients, _ = load_chestxray(collection(tmp_path, *rows), 8)
    assert [p.modalities["structured"].get("SpO2") for p in patients] == [91, None, None]
    assert [p.modalities["structured"].get("pO2") for p in patients] == [None, 40, 340]
    assert {field.name: field.unit for field in FIELDS}["pO2"] == "mmHg"


def test_a_missing_image_is_an_absent_modality_and_a_volume_is_left_out(tmp_path):
    rows = [{}, {"filename": "v.nii.gz", "folder": "volumes", "modality": "CT"}]
    root = collection(tmp_path, *rows, images=False)
    (patient,), _ = load_chestxray(root, 8)
    assert not patient.has("xray")
    assert patient.has("notes")
    counts = verify(root)
    assert (counts["rows"], counts["images listed"], counts["images present"]) == (2, 1, 0)


def test_the_covid_task_keeps_to_x_rays_of_pneumonia_from_two_sources(tmp_path):
    eurorad = "https://www.eurorad.org/case/16745"
    rows = [
        {},
        {"filename": "1.png", "finding": "Pneumonia/Bacterial/Klebsiella", "url": eurorad},
        {"filename": "2.png", "finding": "No Finding"},
        {"filename": "3.png", "modality": "CT", "url": eurorad},
        {"filename": "4.png", "url": "https://cureus.com/x"},
    ]
    patients, task = covid_task(collection(tmp_path, *rows), 8)
    assert [list(patient.labels) for patient in patients] == [["COVID-19"], ["other pneumonia"]]
    assert [patient.site for patient in patients] == ["radiopaedia.org", "eurorad.org"]
    assert task.modality_names == ("xray", "notes", "structured")
    Collator(task, train_tokenizer(["fever"]))(patients)


def test_decoded_images_are_kept_in_the_cache(tmp_path):
    root = collection(tmp_path, {})
    (patient,), _ = load_chestxray(root, 8, cache=tmp_path / "cache")
    first = patient.modalities["xray"].pixels()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (patient,), _ = load_chestxray(root, 8, cache=tmp_path / "cache")
    assert np.array_equal(patient.modalities["xray"].pixels(), first)


BAD = {
    "age": ({"age": "sixty"}, r"metadata\.csv:3, column 'age': is 'sixty', expected a number from 0 to 120"),
    "sex": ({"sex": "X"}, r"metadata\.csv:3, column 'sex': is 'X', expected one of f, m"),
    "view": ({"view": "oblique"}, r"metadata\.csv:3, column 'view': is 'oblique'"),
    "modality": ({"modality": "MRI"}, r"column 'modality': is 'MRI', expected one of x-ray, ct"),
    "no modality": ({"modality": ""}, r"column 'modality': is '', expected something"),
    "no patient": ({"patientid": ""}, r"column 'patientid': is '', expected something"),
    "saturation": ({"pO2_saturation": "340"}, r"'pO2_saturation': is '340', expected a number from 0 to 100"),
    "Fahrenheit": ({"temperature": "101"}, r"'temperature': is '101', expected a number from 30 to 45"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        load_chestxray(collection(tmp_path, {}, {"filename": "b.png", **bad}), 8)


def test_an_image_that_is_not_an_image_is_refused_by_row_and_column(tmp_path):
    root = collection(tmp_path, {}, {"filename": "b.png"})
    (root / "images" / "b.png").write_text("<html>404</html>", encoding="utf-8")
    patients, _ = load_chestxray(root, 8)
    with pytest.raises(DataError, match=r"^metadata\.csv:3, column 'filename': b\.png is not an image"):
        readable(patients)
    assert readable(patients, BadRows(skip=True)) == patients[:1]


def test_renamed_missing_and_repeated_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"column 'finding' is missing \(is it 'findings'\?\)"):
        load_chestxray(collection(tmp_path, {}, header=[n.replace("finding", "findings") for n in HEADER]))
    with pytest.raises(DataError, match=r"column 'temprature' is unknown \(did you mean 'temperature'\?\)"):
        load_chestxray(collection(tmp_path, {}, header=[*REQUIRED, "temprature"]))
    with pytest.raises(DataError, match=r"'7b/3/a\.png' is there already \(metadata\.csv:2\)"):
        load_chestxray(collection(tmp_path, {}, {}), 8)
    with pytest.raises(DataError, match=r"has no metadata\.csv, .* \(no such folder\)"):
        load_chestxray(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no row of this task has a known finding"):
        load_chestxray(collection(tmp_path, {"finding": "todo"}), 8)


NOTES = {
    "covid-19 positive, mild": "mild",
    "SARS-CoV-2 (2019-nCoV), COVID19; Covid 19.": ".",
    "novel coronavirus disease, Wuhan": "disease",
    "Severe Acute Respiratory Syndrome coronavirus": "",
    "Bronchopneumonia; S. pneumoniae, pneumonic": "",
    "PCP (Pneumocystis jirovecii) in HIV": "in HIV",
    "E. coli, E.Coli and Klebsiella pneumoniae": "and",
    "S. aureus, H. influenzae; L. pneumophila grew": "grew",
    "Positive RT-PCR in March 2020": "in March",
    "A real-time polymerase change reaction (PCR) was done": "A real-time was done",
    "Cough; she had a positive nasopharyngeal swab for COVID-19.": "Cough; she had a.",
    "Cough; positive test for SARS. Rest.": "Cough. Rest.",
    "Fever. Discussion: it was\nsarcoid.": "Fever.",
    "Discussion: all of it": "",
    "No findings": "",
    "The copper T, a flute, 39.5 degrees, tbc": "The copper T, a flute, 39.5 degrees, tbc",
    "fluid, influx, strap, stripe, coping": "fluid, influx, strap, stripe, coping",
    "Сор, тв и пневмоторакс": "Сор, тв и пневмоторакс",
    "Lung (left) – clear ; 10⁹/l , “ok” .": "Lung (left) – clear ; 10⁹/l , “ok” .",
}


@pytest.mark.parametrize(("note", "masked"), NOTES.items())
def test_diagnosis_words_leave_nothing_behind(note, masked):
    assert mask_diagnosis(note)[0] == masked
    assert (mask_diagnosis(note)[1] > 0) is (note != masked)


UNUSUAL = {
    **{f"U+{ord(dash):04X}": f"COVID{dash}19" for dash in "-‐‑‒–—―−﹣－⁃"},
    **{f"blank U+{ord(blank):04X}": f"COVID{blank}19" for blank in "\u00a0\u2009\u202f\u3000\t\n"},
    **{
        f"inside U+{ord(mark):04X}": f"COV{mark}ID-1{mark}9"
        for mark in "\u00ad\u200b\u200c\u200d\u2060\ufeff"
    },
    **{f"between by {mark}": f"COVID{mark}19" for mark in "/.:_?~"},
    "several dashes": "SARS–CoV–2",
    "the year before": "2019‐nCoV",
    "full-width": "ＣＯＶＩＤ－１９",
    "one full-width digit": "COVID-1９",
    "accent": "pneumonía",
    "accent apart": "pneumoni\u0301a",
    "accent at the end": "viral\u0301",
    "ligature": "ﬂu",
    "Cyrillic letters": "СОVID-19",
    "a Greek letter": "COVΙD-19",
    "Turkish capital": "İnfluenza",
    "Turkish small": "ınfluenza",
    "end of a line": "pneu-\nmonia",
    "end of a line, soft": "pneu\u00ad\nmonia".replace("\n", ""),
    "end of a line, since flattened": "pneu- monia",
    "end of a line in the number": "COVID-\n19",
    "possessive": "COVID-19’s",
    "footnote": "COVID-19²",
    "glued": "COVID-19positive",
    "adjective": "COVID-19–positive",
    "in brackets": "(COVID-19)",
    "in nested brackets": "[(2019-nCoV), SARS]",
    "in quotes": "“COVID-19”",
}


@pytest.mark.parametrize("word", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_diagnosis_words_are_found_however_they_are_spelled(word):
    assert mask_diagnosis(f"Fever é 10⁹, {word}; cough – dry")[0] == "Fever é 10⁹; cough – dry"
    assert mask_diagnosis(f"Fever, then {word}.")[0] == "Fever, then."
    assert mask_diagnosis(f"{word} Then fever")[0] == "Then fever"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(), max_size=6),
            st.sampled_from(["covid", "‑19", "ﬂ", "u", "pneu-\n", "monia", " (", "), ", "\u0301", "İ", "．"]),
        )
    ).map("".join)
)
def test_masking_takes_away_and_adds_nothing(note):
    """But a blank where two words were apart; and what is masked is masked."""
    masked, words = mask_diagnosis(note)
    rest = iter(note)
    assert all(character in rest for character in masked if character != " ")
    assert words or masked == " ".join(note.replace("\ufdd0", " ").split())


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
