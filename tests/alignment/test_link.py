"""Which modalities of a study are linked, unless somebody says so."""

from robustmdiff.alignment.link import Link, links_of
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task


def test_links_reach_whom_enough_patients_pair():
    """Text is the hub; of genes only the panel is seen beside, of the photograph nothing."""
    task = Task(
        (
            Modality("panel", "values", fields=(Field("x"),)),
            Modality("genes", "values", fields=(Field("x"),)),
            Modality("photo", "image", shape=(1, 8, 8)),
            Modality("note", "text"),
        ),
        ("ill", "well"),
        (0.3, 0.7),
    )

    def patients(n, *names):
        return [Patient(f"{'-'.join(names)} {i}", dict.fromkeys(names, 0)) for i in range(n)]

    ward = [*patients(20, "panel", "note"), *patients(15, "panel", "genes"), *patients(9, "photo", "note")]
    assert links_of(task, ward) == [Link("note", "panel"), Link("panel", "genes")]
    assert links_of(task, patients(30, "panel")) == []
    assert links_of(task, []) == []
