"""A folder of one's own, from training to explanation; and one with rows that cannot be read."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from fhir.resources.R4B.bundle import Bundle
from highdicom.sr import srread
from pyarrow import parquet
from pydicom.sr.codedict import codes

from robustmdiff import __version__
from robustmdiff.data.sources.folder import write_template
from robustmdiff.experiment.run import DECIDING
from tests.cli.said import SETTINGS, Said
from tests.clinical.dicomweb_server import TOKEN, archive
from tests.clinical.patients import bundle, image, observation, patient


def a_folder_of_patients(root: Path, patients: int = 40) -> Path:
    """The template of docs, with more patients in it."""
    write_template(root)
    table = root / "patients.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    more = [
        f"{i}-{row.replace(',train,', ',,').replace(',test,', ',,')}"
        for i in range(patients // 3)
        for row in rows
    ]
    table.write_text("\n".join([header, *more]) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def trained(say, tmp_path_factory) -> Path:
    """A run on such a folder."""
    root = tmp_path_factory.mktemp("own")
    data, out = a_folder_of_patients(root / "patients"), root / "run"
    said = say("train", "--data", "folder", "--root", data, "--out", out, *SETTINGS)
    assert said.code == 0, said.err
    return out


def test_a_folder_of_one_s_own_from_training_to_explanation(say, trained, tmp_path, undrawn):
    out = trained
    write_template(tmp_path / "new")
    rows = say("predict", out, "--data", tmp_path / "new", "--draws", 2, "--json").json["predictions"]
    assert [(row["patient"], row["class"]) for row in rows] == [
        (id, name) for id in ("p1", "p2", "p3") for name in ("pneumonia", "no pneumonia")
    ]
    assert rows[2]["missing"] == "xray"
    asked, table = ("predict", out, "--data", tmp_path / "new", "--draws", 2), tmp_path / "answers.parquet"
    assert say(*asked, "--out", table).out == f"wrote {table}, 6 rows\n"
    assert parquet.read_table(table).to_pylist() == [pytest.approx(row, abs=1e-6) for row in rows]
    for option in (("--workers", 2), ("--engine", "ray")):
        said = say(*asked, *option, "--out", tmp_path / "answers.csv")
        assert said.error == f"{option[0]} is {option[1]}, expected it with --out FILE.parquet alone"
    measured = ("evaluate", out, "--data", tmp_path / "new", "--draws", 2, "--replicates", 10, "--json")
    said = say(*measured)
    assert said.code == 0, said.err
    assert said.json["folder"] == str(out / "evaluation-new")
    assert "3 records of" in (out / "evaluation-new" / "report.md").read_text(encoding="utf-8")
    page = tmp_path / "p2.html"
    arguments = ("--data", tmp_path / "new", "--patient", "p2", "--draws", 2, "--out", page)
    assert say("explain", out, *arguments).code == 0
    assert "Routine" in page.read_text(encoding="utf-8")
    other = tmp_path / "new" / "task.json"
    task = other.read_text(encoding="utf-8")
    other.write_text(task.replace('"mg/l"', '"mmol/l"'), encoding="utf-8")
    for name in ("predict", "explain"):
        assert say(name, out, "--data", tmp_path / "new").error == (
            f"{tmp_path / 'new'}: modality 'structured', field 'crp': unit is 'mmol/l', expected 'mg/l' as "
            "the run was trained with; they differ by a molar mass, which is not known"
        )
    other.write_text(task, encoding="utf-8")
    renamed = tmp_path / "new" / "patients.csv"
    renamed.write_text(
        renamed.read_text(encoding="utf-8").replace("structured.crp", "structured.CRP", 1), encoding="utf-8"
    )
    error = say("predict", out, "--data", tmp_path / "new").error
    assert "patients.csv:1: column 'structured.crp' is missing (is it 'structured.CRP'?)" in error


def probabilities(report):
    """Of a Structured Report, by class and finding."""
    return {
        group.tracking_identifier: group.get_measurements(name=codes.DCM.Probability)[0].value
        for group in report.content.get_image_measurement_groups()
        if group.get_measurements(name=codes.DCM.Probability)
    }


def test_dicom_and_fhir_in_a_structured_report_and_a_fhir_report_out(say, trained, tmp_path):
    chest, record = image(tmp_path / "chest.dcm"), tmp_path / "record.json"
    bundle(
        record, observation("1988-5", 8.4, "mg/dL"), observation("2345-7", 5), of=[patient(gender="female")]
    )
    code_map = tmp_path / "map.json"
    sex = {"codes": ["Patient.gender"], "categories": {"female": "F", "male": "M"}}
    columns = {"structured.crp": {"codes": ["1988-5"]}, "structured.sex": sex}
    code_map.write_text(json.dumps(columns), encoding="utf-8")
    given = ("--dicom", chest, "--fhir", record, "--map", code_map, "--draws", 2)
    told = say("report", trained, *given, "--to", "sr", "--out", tmp_path / "sr.dcm", "--json").json
    assert told["missing"] == ["notes"]
    assert told["notes"] == ["record.json: entry 2 (Observation) is no field of the task, by code or by text"]
    report = srread(tmp_path / "sr.dcm")
    p = probabilities(report)
    assert p["pneumonia"] + p["no pneumonia"] == pytest.approx(1, abs=1e-6)
    assert report.PatientID == "12345"

    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n", encoding="utf-8")
    with archive(chest) as server:
        web = ("--dicomweb", server.url, "--study", report.StudyInstanceUID, "--token-file", token)
        asked = (*web, *given[2:], "--to", "sr", "--out", tmp_path / "web.dcm", "--store")
        assert say("report", trained, *asked).code == 0
        (stored,) = server.stored
    from_web = srread(tmp_path / "web.dcm")
    assert (stored.StudyInstanceUID, stored.SOPInstanceUID) == (
        report.StudyInstanceUID,
        from_web.SOPInstanceUID,
    )
    assert probabilities(from_web) == p

    assert say("report", trained, *given, "--to", "fhir", "--out", tmp_path / "out.json").code == 0
    read = Bundle.model_validate_json((tmp_path / "out.json").read_bytes())
    resources = [entry.resource for entry in read.entry]
    assert [float(each.valueQuantity.value) for each in resources[3:5]] == [p["pneumonia"], p["no pneumonia"]]
    weights = b"".join((trained / name).read_bytes() for name in DECIDING if (trained / name).exists())
    device = resources[1]
    assert device.identifier[0].value == sha256(weights).hexdigest()
    assert (device.deviceName[0].name, device.version[0].value) == ("RobustMDiff", __version__)
    assert "in 90% of patients" in resources[0].conclusion

    bundle(record, of=[patient()])
    nothing = ("--fhir", record, "--to", "fhir", "--out", tmp_path / "out.json")
    said = say("report", trained, *nothing)
    assert "the answer is the prevalence of each class" in said.err
    assert "Nothing is known of the patient" in (tmp_path / "out.json").read_text(encoding="utf-8")
    text = said.out + said.err + (tmp_path / "out.json").read_text(encoding="utf-8")
    assert not any(name in text for name in ("Doe", "Jane"))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--to", "pdf"), "--to is 'pdf', expected sr or fhir"),
        (("--to", "fhir"), "neither --dicom, --dicomweb nor --fhir is given, expected one of them"),
        (
            ("--to", "sr", "--fhir", "record.json"),
            "--to is 'sr', expected --dicom or --dicomweb with the images whose study the report belongs to",
        ),
        (("--to", "fhir", "--study", "1.2"), "--dicomweb and --study go together, expected both or none"),
        (
            ("--to", "fhir", "--series", "1.2"),
            "--series and --token-file are of a DICOMweb server, expected --dicomweb",
        ),
        (
            ("--to", "sr", "--dicom", "x.dcm", "--store"),
            "--store is given, expected --dicomweb and --to sr with it",
        ),
        (
            ("--to", "sr", "--dicom", "x.dcm", "--dicomweb", "http://127.0.0.1:1", "--study", "1.2"),
            "--dicom and --dicomweb are both given, expected one of them",
        ),
        (("--to", "fhir", "--fhir", "none.json"), "none.json: No such file or directory"),
    ],
)
def test_what_cannot_be_reported_is_a_sentence(say, trained, tmp_path, given, error):
    assert say("report", trained, "--out", tmp_path / "out", *given).error == error


def test_without_the_libraries_of_the_formats_it_says_what_to_install(say, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("robustmdiff.cli.report.find_spec", lambda name: None)
    said = say("report", trained, "--out", tmp_path / "out", "--to", "fhir", "--fhir", "record.json")
    assert "pip install 'robustmdiff[clinical]'" in said.error


def test_bad_rows_are_all_told_or_left_out_and_listed(say, tmp_path):
    data, out = a_folder_of_patients(tmp_path / "patients"), tmp_path / "run"
    table = data / "patients.csv"
    table.write_text(
        table.read_text(encoding="utf-8")
        + "x1,,,,,pneumonia,,no.npy,,,\nx2,,,,,pneumonia,,,,high,\nx3,,,,,,,,,,\n",
        encoding="utf-8",
    )
    bad = [
        "column 'xray': is 'no.npy', expected a file under",
        "column 'structured.crp': is 'high', expected a number in mg/l",
    ]

    def told(said: Said, how: str) -> bool:
        lines = [line for line in said.err.splitlines() if line.startswith(how)]
        return len(lines) == 2 and all(what in line for what, line in zip(bad, lines, strict=True))

    train = ("train", "--data", "folder", "--root", data, "--out", out, *SETTINGS)
    said = say(*train)
    assert said.code == 2
    assert told(said, "error: patients.csv:")
    assert not out.exists()
    said = say(*train, "--skip-bad", "--json")
    assert said.code == 0, said.err
    assert told(said, "left out: patients.csv:")
    assert [what in row for what, row in zip(bad, said.json["left_out"], strict=True)] == [True, True]
    assert say("predict", out, "--draws", 2).code == 0  # the run leaves the same rows out each time

    asked = ("predict", out, "--data", data, "--patient", "x3", "--draws", 2)
    assert say(*asked).code == 2
    said = say(*asked, "--skip-bad", "--json")
    assert len(said.json["left_out"]) == 2
    rows = said.json["predictions"]
    assert [row["nothing_known"] for row in rows] == [True, True]
    prevalence = json.loads((out / "model" / "model.json").read_text(encoding="utf-8"))["task"]["prevalence"]
    assert [row["probability"] for row in rows] == pytest.approx(prevalence, abs=1e-6)
    assert "the answer is the prevalence of each class" in say(*asked, "--skip-bad").out
    said = say("predict", out, "--data", data, "--skip-bad", "--out", tmp_path / "answers.parquet", "--json")
    assert (said.json["rows"], len(said.json["left_out"])) == (2 * 40, 2)
    assert told(said, "left out: patients.csv:")
    page = ("--out", tmp_path / "page.html")
    hidden = [word for name in ("xray", "notes", "structured") for word in ("--hide", name)]
    said = say("explain", out, *hidden, *page, "--draws", 2)
    assert "the answer is the prevalence of each class" in said.err

    said = say("data", "verify", data, "--json")
    assert said.code == 2
    found = said.json
    assert len(found["left_out"]) == 2
    assert (found["patients"], found["people"], found["labelled"]) == (40, 40, 39)
    assert {row["modality"]: row["present"] for row in found["modalities"]} == {
        "xray": 26, "notes": 26, "structured": 39
    }  # fmt: skip
    assert [row["patients"] for row in found["classes"]] == [26, 13]
    said = say("data", "verify", data, "--skip-bad")
    assert said.code == 0
    assert "40 records of 40 people, 39 labelled" in said.out


def test_too_few_patients_to_calibrate(say, tmp_path):
    write_template(tmp_path / "data")
    given = ("--data", "folder", "--root", tmp_path / "data", "--out", tmp_path / "run")
    assert "no patient is left for calibration" in say("train", *given).error
