"""Raw patients in, the Answer out; whatever is wrong is one sentence that quotes nothing of them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib

import pytest

from robustmdiff.data.patient import Patient
from tests.serving.conftest import FULL, NAME, TEXT, artefact, base64_of, house, png

PATIENT = {"scan": base64_of(png()), "note": "cough fever", "labs": {"CRP": 10, "sex": "f"}}


def sentence(response, status: int) -> str:
    assert response.status_code == status, response.text
    said = response.json()
    assert list(said) == ["error"]
    for secret in (NAME, NAME.split()[0], "/tmp", "/dev/shm", "robustmdiff/", "Traceback"):
        assert secret not in response.text
    return said["error"]


def test_it_answers_as_the_artefact_does(served):
    said = served.client.post("/predict", json=PATIENT).json()
    whole = artefact().diagnose(
        Patient("", {"scan": _pixels(), "note": "cough fever", "labs": PATIENT["labs"]})
    )
    assert said["probability"] == pytest.approx({"healthy": 1 - 10 / FULL, "ill": 10 / FULL})
    assert said["probability"] == whole.probability
    assert said["prediction"] == list(whole.prediction) == ["healthy", "ill"]
    assert said["interval"]["ill"] == list(whole.interval["ill"])
    assert (said["model"], said["version"]) == ("ward", served.served[0].version)
    assert "patient" not in said


def _pixels():
    import numpy as np

    return np.ones((1, 4, 4), np.float32)


def test_of_what_is_left_out_or_null_it_says_that_it_is_missing(served):
    for nothing in ({}, {"scan": None, "labs": None}):
        said = served.client.post("/predict", json=nothing).json()
        assert said["missing"] == ["scan", "note", "labs"]
        assert said["nothing_known"]


def test_multipart_is_the_same(served):
    files = {
        "scan": ("x.png", png(), "image/png"),
        "note": (None, PATIENT["note"]),
        "labs": (None, json.dumps(PATIENT["labs"])),
    }
    response = served.client.post("/predict", files=files)
    assert response.status_code == 200, response.text
    assert response.json() == served.client.post("/predict", json=PATIENT).json()


def zipped(size: int) -> bytes:
    with zipfile.ZipFile(content := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("scan.png", bytes(size))
    return content.getvalue()


@pytest.mark.parametrize(
    ("patient", "status", "said"),
    [
        ({"scans": "x"}, 422, "a modality is not one of this model, expected some of scan, note, labs"),
        ({NAME: "x"}, 422, "expected some of scan, note, labs"),
        ([PATIENT], 400, "the patient is no JSON object"),
        ({"note": 3}, 422, "note: is not what the model takes, expected a text"),
        ({"note": "x" * 1001}, 413, "note: is too long, expected at most 1000 characters"),
        ({"note": "\ud800"}, 400, "note: holds half a character"),
        ({"labs": TEXT}, 422, "labs: is not what the model takes, expected an object of some of CRP"),
        ({"labs": {"CRP": TEXT}}, 422, "CRP (number mg/L), sex (one of f, m)"),
        ({"labs": {NAME: 3}}, 422, "CRP (number mg/L), sex (one of f, m)"),
        ({"labs": {"sex": NAME}}, 422, "CRP (number mg/L), sex (one of f, m)"),
        ({"labs": {"sex": [NAME]}}, 422, "CRP (number mg/L), sex (one of f, m)"),
        ({"labs": {"CRP": 1e300}}, 422, "CRP (number mg/L)"),
        ({"labs": {"CRP": 10**400}}, 422, "CRP (number mg/L)"),
        ({"scan": TEXT}, 422, "scan: is no base64"),
        ({"scan": 7}, 422, "scan: is no base64"),
        ({"scan": ""}, 422, "scan: is not an image that can be read"),
        ({"scan": base64_of(TEXT.encode())}, 422, "scan: is not an image that can be read"),
        ({"scan": base64_of(png()[:40])}, 422, "scan: is not an image that can be read"),
        ({"scan": base64_of(zipped(2**24))}, 422, "scan: is not an image that can be read"),
        ({"scan": base64_of(gzip.compress(bytes(2**24)))}, 422, "scan: is not an image that can be read"),
    ],
)
def test_what_is_no_patient_is_refused(tmp_path, patient, status, said):
    for served in house(tmp_path, text=1000):
        text = json.dumps(patient)
        response = served.client.post("/predict", content=text, headers={"content-type": "application/json"})
        assert said in sentence(response, status)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"labs": {"CRP": NaN}}', b'{"labs": {"CRP": -Infinity}}', b"[" * 100_000],
)
def test_what_is_no_json_is_refused(served, body):
    headers = {"content-type": "application/json"}
    assert "is not JSON" in sentence(served.client.post("/predict", content=body, headers=headers), 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", "multipart/form-data"])
def test_another_content_type_is_refused(served, kind):
    response = served.client.post("/predict", content=TEXT.encode(), headers={"content-type": kind})
    sentence(response, 400 if kind.startswith("multipart") else 415)


def test_a_modality_that_comes_twice_is_refused(served):
    parts = [("note", (None, TEXT)), ("note", (None, "other"))]
    assert "comes twice" in sentence(served.client.post("/predict", files=parts), 400)


@pytest.mark.parametrize("path", ["/predict", "/explain"])
@pytest.mark.parametrize("query", ["verison=abc", "Version=abc", "version=abc&version=abc", "note=" + NAME])
@pytest.mark.parametrize("how", [{"json": PATIENT}, {"files": {"note": (None, TEXT)}}])
def test_a_query_that_is_not_known_is_refused_by_both_doors(served, path, query, how):
    response = served.client.post(f"{path}?{query}", **how)
    assert "expected version, once, or none" in sentence(response, 400)
    known = f"{path}?version={served.served[0].version}"
    assert served.client.post(known, **how).status_code == 200


def test_a_part_that_looks_like_a_number_is_a_text_and_values_may_be_null(served):
    files = {"note": (None, "2.5"), "labs": (None, "null")}
    said = served.client.post("/predict", files=files)
    assert said.json() == served.client.post("/predict", json={"note": "2.5", "labs": None}).json()
    assert said.json()["missing"] == ["scan", "labs"]
    sentence(served.client.post("/predict", json={"note": 2.5}), 422)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width: int, height: int, depth: int, colour: int) -> bytes:
    """A PNG of a few bytes that says how large it is."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(bytes(2**16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (16, 0), (8, 6)])
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(served, depth, colour):
    content = base64_of(bomb(9000, 9000, depth, colour))
    said = sentence(served.client.post("/predict", json={"scan": content}), 422)
    assert said == "scan: is 9000 x 9000 pixels, expected at most 67,108,864 in all"


def test_a_text_chunk_that_would_fill_the_memory_is_refused(served):
    whole = png()
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26), 9))
    content = whole[:33] + text + whole[33:]  # behind IHDR
    said = sentence(served.client.post("/predict", json={"scan": base64_of(content)}), 422)
    assert "is not an image that can be read" in said


def test_dicom_of_too_many_pixels_or_deflated_is_refused(served):
    pytest.importorskip("pydicom")
    for content in (dicom(rows=60_000, columns=60_000), dicom(deflated=2**24)):
        said = sentence(served.client.post("/predict", json={"scan": base64_of(content)}), 422)
        assert "pixels, expected at most" in said or "is a deflated DICOM file" in said


def test_what_a_dicom_header_says_of_a_person_is_not_repeated(served):
    pytest.importorskip("pydicom")
    content = dicom(rows=4, columns=4, BitsStored=99)
    sentence(served.client.post("/predict", json={"scan": base64_of(content)}), 422)


def dicom(rows: int = 4, columns: int = 4, deflated: int = 0, **more) -> bytes:
    import io

    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    image.PatientName, image.Modality = NAME, "OT"
    image.Rows, image.Columns, image.SamplesPerPixel = rows, columns, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes(deflated or 16)
    for name, value in more.items():
        setattr(image, name, value)
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
