from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from robustmdiff.data.collate import Collator
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.names import check_modality_name
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import train_tokenizer
from robustmdiff.encoders.tensors import tensors

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 2, 3)),
        Modality("report", "text"),
        Modality("labs", "values", fields=(Field("crp"), Field("wbc"))),
    ),
    classes=("flu", "cold"),
    prevalence=(0.4, 0.6),
    findings=("fever",),
)


@pytest.fixture
def batch():
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    patients = [
        Patient("a", {"xray": image, "labs": {"crp": 3.5}}, {"flu": True}, {"fever": False}),
        Patient("b", {"report": "fever"}),
        Patient("c", {}),
    ]
    return Collator(TASK, train_tokenizer(["fever"], min_count=1))(patients)


def arrays_of(batch):
    fields = ("presence", "label", "label_known", "findings", "findings_known")
    yield from ((name, getattr(batch, name)) for name in fields)
    for name, packed in batch.inputs.items():
        yield from ((f"{name}.{field}", array) for field, array in packed._asdict().items())


def test_every_array_becomes_the_tensor_of_the_same_numbers(batch):
    there = tensors(batch)
    assert there.ids == batch.ids
    assert {name: type(packed) for name, packed in there.inputs.items()} == {
        name: type(packed) for name, packed in batch.inputs.items()
    }
    for (name, array), (_, tensor) in zip(arrays_of(batch), arrays_of(there), strict=True):
        assert isinstance(array, np.ndarray), name
        assert isinstance(tensor, torch.Tensor), name
        assert tensor.numpy().dtype == array.dtype, name
        np.testing.assert_array_equal(tensor.numpy(), array, err_msg=name)


def test_on_the_same_device_nothing_is_copied(batch):
    there = tensors(batch)
    assert np.shares_memory(there.inputs["xray"].pixels.numpy(), batch.inputs["xray"].pixels)
    assert tensors(there).inputs["xray"].pixels is there.inputs["xray"].pixels


def test_the_tensors_lie_on_the_device_asked_for(batch):
    assert {tensor.device.type for _, tensor in arrays_of(tensors(batch, "meta"))} == {"meta"}


def test_no_modality_has_a_name_of_the_module_that_holds_its_encoder():
    """In an interpreter of its own: other libraries add to torch's modules."""
    code = "from torch import nn; print(*dir(nn.ModuleDict()))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert len(names.stdout.split()) > 100, names.stderr
    for name in names.stdout.split():
        with pytest.raises(ValueError, match=r"which torch\.nn\.ModuleDict uses itself"):
            check_modality_name(name)
