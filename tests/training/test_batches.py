from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmdiff.data.batch import Batch
from robustmdiff.data.kinds.text import Texts
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.task import Task
from robustmdiff.encoders.tensors import tensors
from robustmdiff.training.batches import PackedPatients

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 3, 2)),
        Modality("report", "text"),
        Modality("labs", "values", fields=(Field("a"), Field("b"))),
        Modality("mri", "image", shape=(2, 2, 2)),  # nobody has one
    ),
    classes=("none", "flu"),
    prevalence=(0.7, 0.3),
    findings=("opacity",),
)


class WordCollator:
    """The real collator, with one token per word instead of a trained tokenizer."""

    def __init__(self) -> None:
        from robustmdiff.data.collate import Collator

        self.collate = Collator(TASK)
        self.calls = 0

    def __call__(self, patients):
        self.calls += 1
        silent = [Patient(p.id, {**p.modalities, "report": None}, p.labels, p.findings) for p in patients]
        batch = self.collate(silent)
        rows = [b for b, p in enumerate(patients) if p.has("report")]
        ids = [[1, *map(len, patients[b].modalities["report"].split())] for b in rows]
        batch.presence[rows, 1] = True
        batch.inputs["report"] = Texts(
            np.array(rows, dtype=np.int64),
            np.array([i for text in ids for i in text], dtype=np.int64),
            np.array([len(text) for text in ids], dtype=np.int64),
        )
        return batch


def make_patients(n: int) -> list[Patient]:
    g = torch.Generator().manual_seed(3)
    patients = []
    for i in range(n):
        modalities = {
            "xray": torch.randn(1, 3, 2, generator=g) if i % 3 else None,
            "report": ["", "no opacity", "a rather large opacity"][i % 3] if i % 4 else None,
            "labs": {"a": float(i)} if i % 5 else {},
        }
        findings = {"opacity": True} if i % 2 else {}
        patients.append(Patient(f"p{i}", modalities if i % 7 else {}, {"flu": i % 2 == 0}, findings))
    return patients


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.ids == b.ids
    for name in ("presence", "label", "label_known", "findings", "findings_known"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert set(a.inputs) == set(b.inputs)
    for name, packed in a.inputs.items():
        assert type(packed) is type(b.inputs[name])
        for field, x, y in zip(packed._fields, packed, b.inputs[name], strict=True):
            assert torch.equal(x, y), (name, field)
            assert x.dtype == y.dtype, (name, field)


@pytest.mark.parametrize(
    "index",
    [
        pytest.param([], id="nobody"),
        pytest.param([7], id="a-patient-with-nothing"),
        pytest.param([0, 3, 9], id="no-one-has-an-xray"),
        pytest.param([150, 2, 64, 63, 5, 2, 2], id="any-order-with-repeats"),
    ],
)
def test_taken_from_memory_equals_collated(index):
    patients, collator = make_patients(157), WordCollator()  # three chunks, the last a part of one
    packed = PackedPatients(patients, collator, cache_gb=1)
    calls = collator.calls
    taken = packed.take(np.array(index, dtype=np.int64))
    assert collator.calls == calls
    assert_equal(taken, tensors(collator([patients[i] for i in index])))
    anew = PackedPatients(patients, collator, cache_gb=0)
    assert not anew.inputs
    assert_equal(anew.take(np.array(index, dtype=np.int64)), taken)
    for name in ("ids", "presence", "label", "label_known"):
        assert len(getattr(anew, name)) == len(getattr(packed, name)) == 157
    assert_equal(packed.sample(), tensors(collator(patients)))


def test_no_patients_at_all():
    assert len(PackedPatients([], WordCollator(), cache_gb=1)) == 0


def test_a_bad_patient_is_found_before_training():
    patients = make_patients(80)
    patients[71] = Patient("p71", {"labs": {"a": float("nan")}}, {"flu": True})
    with pytest.raises(DataError, match="p71"):
        PackedPatients(patients, WordCollator(), cache_gb=0)
