from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from robustmdiff.data.bad_rows import BadRows
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.data.sources.openi import load_openi, stream_studies, verify
from robustmdiff.data.study import texts_of
from robustmdiff.data.tokenizer import train_tokenizer
from tests.data.sources.reports import packed, unpacked, xml

REAL = Path(__file__).parents[3] / "../shared/data/openi"
real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/openi is not here")


@pytest.mark.parametrize("layout", [packed, unpacked])
def test_what_a_report_says(tmp_path, layout):
    root = layout(
        tmp_path,
        xml("CXR1"),
        xml("CXR2", coded=("Cardiomegaly/mild", "Aorta/tortuous"), FINDINGS=" ", INDICATION=""),
        xml("CXR3", coded=("No Indexing",), FINDINGS="", IMPRESSION="\n"),
        xml("CXR4", coded=("Technical Quality of Image Unsatisfactory ", "normal")),
    )
    before = sorted(root.rglob("*"))
    patients, task = load_openi(root)
    assert sorted(root.rglob("*")) == before  # nothing is unpacked
    assert [patient.id for patient in patients] == ["CXR1", "CXR2", "CXR3", "CXR4"]
    first, second, third, fourth = patients
    assert first.modalities == {
        "indication": "Positive TB test",
        "report": "The lungs are clear. No XXXX. Normal chest.",
    }
    assert second.modalities == {"indication": None, "report": "Normal chest."}
    assert third.modalities == {"indication": "Positive TB test", "report": None}
    assert [patient.labels for patient in patients] == [
        {"normal": True},
        {"abnormal": True},
        {},
        {"abnormal": True},  # there is more to it than that it is normal
    ]
    assert fourth.person == "CXR4"
    batch = Collator(task, train_tokenizer(texts_of(patients, task)))(patients)
    assert batch.presence.tolist() == [[True, True], [False, True], [True, False], [True, True]]


def test_studies_come_one_by_one(tmp_path):
    """Of an archive that ends in the middle the first ones are read."""
    root = packed(tmp_path, *(xml(f"CXR{n}", FINDINGS=str(n) * 20000) for n in range(1, 30)))
    whole = (root / "NLMCXR_reports.tgz").read_bytes()
    (root / "NLMCXR_reports.tgz").write_bytes(whole[: len(whole) // 2])
    assert [study.id for study in islice(stream_studies(root), 3)] == ["CXR1", "CXR2", "CXR3"]
    with pytest.raises(DataError, match=r"NLMCXR_reports\.tgz: is not an archive that can be read"):
        list(stream_studies(root))


def test_reports_that_cannot_be_read_are_named_together_and_can_be_skipped(tmp_path):
    root = unpacked(tmp_path, xml("CXR1"), b"<eCitation>", b"<eCitation/>", xml("CXR1"))
    with pytest.raises(DataError) as refused:
        load_openi(root)
    assert "2.xml: is not XML that can be read" in refused.value.args[0]
    assert "3.xml: has no uId, expected a report of Open-i" in refused.value.args[1]
    assert "4.xml: is CXR1, expected each study once (1.xml)" in refused.value.args[2]
    patients, _ = load_openi(root, bad=BadRows(skip=True))
    assert [patient.id for patient in patients] == ["CXR1"]
    with pytest.raises(DataError, match=r"2\.xml: is not XML"):
        list(stream_studies(root))


def test_neither_archive_nor_folder(tmp_path):
    with pytest.raises(DataError, match=r"has no NLMCXR_reports\.tgz and no ecgen-radiology/\*\.xml"):
        load_openi(tmp_path)
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match="is not an archive"):
        load_openi(tmp_path)


@real
def test_the_real_archive():
    """What lies in the XML, counted with ElementTree alone."""
    patients, task = load_openi(REAL)
    assert verify(REAL) == {
        **{"reports": 3955, "images named": 7470, "reports that name no image": 104},
        **{"with comparison": 3955 - 622, "with findings": 3955 - 530},
        **{"with impression": 3955 - 34, "with indication": 3955 - 90},
    }
    normal = sum(patient.labels.get("normal", False) for patient in patients)
    unknown = sum(not patient.labels for patient in patients)
    assert (len(patients), normal) == (3955, 1391)
    assert 95 <= unknown <= 101
    known = len(patients) - unknown
    assert task.prevalence == pytest.approx(
        (normal / known, 1 - normal / known), abs=1e-3
    )  # one more of each
