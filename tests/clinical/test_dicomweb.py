"""A study is fetched from a DICOMweb server, a report is stored there, and what it refuses is a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.clinical.code_map import CodeMap
from robustmdiff.clinical.dicom_images import read_dicom
from robustmdiff.clinical.structured_report import structured_report, to_bytes
from robustmdiff.refusal import Refusal
from tests.clinical.patients import ANSWER, MODEL, TASK, evidence, image

pytest.importorskip("dicomweb_client")
from robustmdiff.clinical.dicomweb import Study
from tests.clinical.dicomweb_server import TOKEN, archive

UID = "1.2"


def study_of(server, uid=UID, *series, token=TOKEN):
    return Study(server.url, uid, series, token)


def report(tmp_path):
    return to_bytes(structured_report(ANSWER, MODEL, [evidence(tmp_path / "evidence.dcm")]))


def test_the_images_of_a_study_come_as_they_are_stored(tmp_path):
    there = image(tmp_path / "there.dcm")
    (tmp_path / "report.dcm").write_bytes(report(tmp_path))
    segmented = image(tmp_path / "segmented.dcm", Modality="SEG", SeriesInstanceUID="1.2.5")
    other = image(tmp_path / "other.dcm", StudyInstanceUID="1.3", SeriesInstanceUID="1.3.1")
    with archive(there, tmp_path / "report.dcm", segmented, other) as server:
        (tmp_path / "fetched").mkdir()
        paths, notes = study_of(server).fetch(tmp_path / "fetched", TASK, CodeMap(TASK))
        received = read_dicom(paths, TASK, CodeMap(TASK))
    assert notes == [
        "series 2 of 3: has Modality 'SR', which the model does not read; not used",
        "series 3 of 3: has Modality 'SEG', which the model does not read; not used",
    ]
    direct = read_dicom([there], TASK, CodeMap(TASK))
    assert (received.studies, received.identifiers) == (direct.studies, direct.identifiers)
    pixels = (received.observed["xray"].pixels(), direct.observed["xray"].pixels())
    np.testing.assert_array_equal(*pixels)
    assert received.evidence == direct.evidence


def test_a_series_may_be_chosen(tmp_path):
    one = image(tmp_path / "one.dcm")
    two = image(tmp_path / "two.dcm", SeriesInstanceUID="1.2.4")
    with archive(one, two) as server:
        (tmp_path / "fetched").mkdir()
        paths, notes = study_of(server, UID, "1.2.4").fetch(tmp_path / "fetched", TASK, CodeMap(TASK))
        assert ([path.name for path in paths], notes) == (["series 2 of 2"], [])
        assert not any(path.endswith("/series/1.2.3") for path in server.asked)


def test_a_report_is_stored_in_its_study(tmp_path):
    content = report(tmp_path)
    with archive() as server:
        study_of(server).store(content)
        (stored,) = server.stored
    assert stored.StudyInstanceUID == UID
    assert stored.Modality == "SR"
    stored.save_as(tmp_path / "stored.dcm", enforce_file_format=True)
    assert (tmp_path / "stored.dcm").read_bytes() == content


def test_whatever_the_server_says_instead_is_a_sentence(tmp_path):
    with archive(image(tmp_path / "there.dcm")) as server:
        for study, sentence in (
            (study_of(server, token="wrong"), "said 401, expected 200"),
            (study_of(server, "1.9"), "has 0 series and none that the model reads, expected xray"),
        ):
            with pytest.raises(Refusal, match=sentence) as refused:
                study.fetch(tmp_path, TASK, CodeMap(TASK))
            assert study.uid not in str(refused.value)
        server.refuses = 0x0122
        with pytest.raises(Refusal, match=r"has not stored the report \(290\)"):
            study_of(server).store(report(tmp_path))
    with pytest.raises(Refusal, match=r"does not answer \(ConnectionError\)"):
        study_of(server).store(report(tmp_path))


@pytest.mark.parametrize(
    ("url", "uid", "error"),
    [
        ("ftp://x", UID, "the address of the DICOMweb server begins otherwise"),
        ("http://x", "1.2/../..", "a UID of study or series is none"),
        ("http://x", "", "a UID of study or series is none"),
    ],
)
def test_what_is_no_address_is_refused(url, uid, error):
    with pytest.raises(Refusal, match=error):
        Study(url, uid)
