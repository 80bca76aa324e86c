from __future__ import annotations

import numpy as np
import pytest

from robustmdiff.clinical.code_map import CodeMap
from robustmdiff.clinical.dicom_images import read_dicom
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import DataError
from robustmdiff.data.task import Task
from tests.clinical.patients import TASK, image
from tests.data.pictures.dicom import edit, series

CT = Modality("ct", "image", shape=(3, 4, 4), window=(-1000.0, 400.0))
TWO = Task((TASK.modality("xray"), CT), ("a", "b"), (0.5, 0.5))
MAP = CodeMap(TWO, {"xray": {"codes": ["DX", "chest  pa"]}, "ct": {"codes": ["CT"]}})


def a_ct(folder, **fields):
    known = {"StudyInstanceUID": "1.2", "Modality": "CT", "RescaleIntercept": "-900", "RescaleSlope": "1"}
    return series(folder, [2, 0, 3, 1], **{**known, **fields})


def test_the_only_image_modality_needs_no_map(tmp_path):
    received = read_dicom([image(tmp_path / "a.dcm", Modality="XX")], TASK, CodeMap(TASK))
    assert list(received.observed) == ["xray"]
    np.testing.assert_array_equal(
        received.observed["xray"].pixels()[0], np.arange(16, dtype=np.float32).reshape(4, 4) / np.float32(255)
    )
    assert received.identifiers == {"12345"}
    assert received.subject == {"type": "Patient", "identifier": {"value": "12345"}}
    assert received.studies == ("1.2",)


def test_a_file_and_a_series_go_where_the_map_says(tmp_path):
    described = image(tmp_path / "a.dcm", Modality="OT", SeriesDescription="Chest PA")
    received = read_dicom([a_ct(tmp_path / "ct"), described], TWO, MAP)
    assert set(received.observed) == {"xray", "ct"}
    assert received.observed["ct"].pixels().shape == (3, 4, 4)
    assert len({each.SOPInstanceUID for each in received.evidence}) == 5


def test_two_patients_are_refused_and_not_named(tmp_path):
    paths = [image(tmp_path / "a.dcm"), image(tmp_path / "b.dcm", Modality="CT", PatientID="777")]
    with pytest.raises(
        DataError, match=r"a.dcm and b.dcm: the PatientID is of 2 patients, expected one"
    ) as error:
        read_dicom(paths, TWO, MAP)
    assert not any(secret in str(error.value) for secret in ("777", "12345", "Doe", "Jane"))
    other = image(tmp_path / "c.dcm", Modality="CT", IssuerOfPatientID="elsewhere")
    with pytest.raises(DataError, match=r"a.dcm and c.dcm: the PatientID is of 2 patients"):
        read_dicom([paths[0], other], TWO, MAP)


def test_a_series_with_a_slice_of_another_patient_is_refused(tmp_path):
    folder = a_ct(tmp_path / "ct")
    edit(folder / "IM0002", PatientID="777")
    with pytest.raises(DataError, match=r"^ct: the PatientID is of 2 patients, expected one$"):
        read_dicom([folder], TWO, MAP)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_an_image_that_cannot_be_filed_is_refused(tmp_path, keyword):
    path = image(tmp_path / "a.dcm")
    edit(path, **{keyword: ""})
    with pytest.raises(DataError, match=f"a.dcm: has no {keyword}, which a report needs, expected one"):
        read_dicom([path], TASK, CodeMap(TASK))


def test_a_uid_that_is_none_is_refused(tmp_path):
    path = image(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.3\0", b"Jane\0\0"))
    with pytest.raises(DataError, match=r"a.dcm: has no valid SeriesInstanceUID, which a report needs"):
        read_dicom([path], TASK, CodeMap(TASK))


def test_what_is_no_image_or_no_modality_is_refused(tmp_path):
    report = image(tmp_path / "report.dcm", Modality="SR")
    edit(report, PixelData=None, Rows=None, Columns=None)
    with pytest.raises(
        DataError, match=r"report.dcm: holds no image \(its Modality is SR\), expected pixels"
    ):
        read_dicom([report], TASK, CodeMap(TASK))
    text = tmp_path / "text.dcm"
    text.write_text("Doe^Jane", encoding="utf-8")
    with pytest.raises(DataError, match=r"text.dcm: is not DICOM"):
        read_dicom([text], TASK, CodeMap(TASK))
    with pytest.raises(DataError, match=r"none.dcm: is not a DICOM image that can be read"):
        read_dicom([tmp_path / "none.dcm"], TASK, CodeMap(TASK))
    other = image(tmp_path / "a.dcm", Modality="US")
    with pytest.raises(
        DataError, match=r"has Modality 'US', for which the map has no modality, expected xray, ct"
    ):
        read_dicom([other], TWO, MAP)
    with pytest.raises(DataError, match=r"b.dcm: is 'xray' as a.dcm is, expected one image of each"):
        read_dicom([image(tmp_path / "a.dcm"), image(tmp_path / "b.dcm")], TASK, CodeMap(TASK))


def test_pixels_that_cannot_be_decoded_are_told_with_the_file_when_they_are_asked_for(tmp_path):
    path = image(tmp_path / "a.dcm")
    edit(path, PixelData=b"12")
    received = read_dicom([path], TASK, CodeMap(TASK))
    with pytest.raises(DataError, match=r"a.dcm is not a DICOM image that can be read"):
        received.observed["xray"].pixels()
