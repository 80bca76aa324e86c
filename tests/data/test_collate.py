from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustmdiff.data.collate import Collator
from robustmdiff.data.kinds.image import Images
from robustmdiff.data.kinds.text import Texts
from robustmdiff.data.kinds.values import Panels
from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import DataError, Patient
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import train_tokenizer

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 2, 3)),
        Modality("report", "text"),
        Modality("labs", "values", fields=(Field("crp", "mg/l"), Field("sex", categories=("F", "M")))),
    ),
    classes=("flu", "cold", "none", "other"),
    prevalence=(0.1, 0.2, 0.6, 0.1),
    findings=("fever", "cough"),
)
TOKENIZER = train_tokenizer(["fever and a cough", "no cough"], min_count=1)
IMAGE = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


def patient(**observed: object) -> Patient:
    return Patient("p3", observed, source="mine.csv:7")


def test_a_batch_holds_what_is_present_and_nothing_else():
    batch = Collator(TASK, TOKENIZER)(
        [
            Patient("a", {"xray": IMAGE, "labs": {"sex": "M"}}, labels={"cold": True}),
            Patient("b", {"report": None}),
            Patient("c", {"report": "", "labs": {}}, findings={"cough": False}),
            Patient("d", {"report": "no cough", "xray": -IMAGE}, labels={"flu": False}),
            Patient("e", {"labs": {"crp": 3, "sex": "F"}}, findings={"fever": True}),
        ]
    )
    assert batch.ids == ("a", "b", "c", "d", "e")
    assert len(batch) == 5
    assert batch.presence.tolist() == [
        [True, False, True],
        [False, False, False],
        [False, True, True],
        [True, True, False],
        [False, False, True],
    ]
    xray, report, labs = (batch.inputs[name] for name in TASK.modality_names)
    assert isinstance(xray, Images)
    assert xray.rows.tolist() == [0, 3]
    assert np.array_equal(xray.pixels, np.stack([IMAGE, -IMAGE]))
    assert isinstance(report, Texts)
    assert report.rows.tolist() == [2, 3]
    assert report.lengths.tolist() == [2, 4]
    assert report.input_ids.tolist() == TOKENIZER.encode("").ids + TOKENIZER.encode("no cough").ids
    assert isinstance(labs, Panels)
    assert labs.rows.tolist() == [0, 2, 4]
    assert labs.value.tolist() == [[0, 1], [0, 0], [3, 0]]
    assert labs.present.tolist() == [[False, True], [False, False], [True, True]]
    assert batch.label.tolist()[0] == [0, 1, 0, 0]
    assert batch.label_known.tolist() == [
        [True] * 4,
        [False] * 4,
        [False] * 4,
        [True] + [False] * 3,
        [False] * 4,
    ]
    assert batch.findings.tolist()[4] == [1, 0]
    assert batch.findings_known.tolist()[2] == [False, True]
    assert (batch.label.dtype, batch.findings.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    "patients",
    [[], [Patient("a", {}), Patient("b", {})]],
    ids=["no patients", "patients with nothing at all"],
)
def test_nothing_gives_empty_arrays_of_the_right_shape(patients):
    batch = Collator(TASK)(patients)
    assert batch.presence.shape == (len(patients), 3)
    assert not batch.presence.any()
    xray, report, labs = (batch.inputs[name] for name in TASK.modality_names)
    assert xray.pixels.shape == (0, 1, 2, 3)
    assert (report.input_ids.shape, report.lengths.shape) == ((0,), (0,))
    assert labs.value.shape == labs.present.shape == (0, 2)
    assert all(
        packed.rows.shape == (0,) and packed.rows.dtype == np.int64 for packed in batch.inputs.values()
    )


def test_finite_values_whose_sum_overflows_are_fine():
    batch = Collator(TASK)([patient(xray=np.full((1, 2, 3), 3e38, np.float32))])
    assert np.isfinite(batch.inputs["xray"].pixels).all()


def test_a_tensor_is_read_as_the_array_that_it_is():
    batch = Collator(TASK)([patient(xray=torch.from_numpy(IMAGE))])
    assert isinstance(batch.inputs["xray"].pixels, np.ndarray)
    assert np.array_equal(batch.inputs["xray"].pixels, IMAGE[None])


class Stored:
    """An image that lies elsewhere."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.asked = image, 0

    def pixels(self) -> np.ndarray:
        self.asked += 1
        return self.image


def test_a_stored_image_is_read_when_it_is_packed_and_checked_like_another():
    stored, collate = Stored(IMAGE), Collator(TASK)
    sick = patient(xray=stored)
    assert (sick.has("xray"), stored.asked) == (True, 0)
    assert np.array_equal(collate([sick]).inputs["xray"].pixels, IMAGE[None])
    assert stored.asked == 1
    with pytest.raises(DataError, match=r"^patient 'p3' .*'xray': is float32 \[2, 3\], expected float32"):
        collate([patient(xray=Stored(IMAGE[0]))])


def test_the_same_text_gives_the_same_tokens_again():
    collate = Collator(TASK, TOKENIZER)
    first, again = (collate([patient(report="no cough")]).inputs["report"] for _ in range(2))
    assert first.input_ids.tolist() == again.input_ids.tolist() == TOKENIZER.encode("no cough").ids


def test_empty_text_and_absent_text_differ():
    absent, empty = (Collator(TASK, TOKENIZER)([patient(report=text)]) for text in (None, ""))
    assert absent.presence.tolist() == [[False, False, False]]
    assert empty.presence.tolist() == [[False, True, False]]
    assert empty.inputs["report"].input_ids.tolist() == [
        TOKENIZER.token_to_id("[CLS]"),
        TOKENIZER.token_to_id("[SEP]"),
    ]


def test_a_long_text_is_cut_and_keeps_its_last_token():
    batch = Collator(TASK, TOKENIZER, max_tokens=4)(
        [patient(report="fever and a cough"), patient(report="no")]
    )
    assert batch.inputs["report"].lengths.tolist() == [4, 3]
    assert batch.inputs["report"].input_ids[3] == TOKENIZER.token_to_id("[SEP]")


def test_multilabel_classes_are_each_their_own_yes_or_no():
    task = replace(TASK, multilabel=True)
    batch = Collator(task)([Patient("a", {}, labels={"flu": True, "none": True, "cold": False})])
    assert batch.label.tolist() == [[1, 0, 1, 0]]
    assert batch.label_known.tolist() == [[True, True, True, False]]


NAN = IMAGE.copy()
NAN[0, 1, 2] = math.nan
BAD = {
    "unknown modality": (patient(xrays=IMAGE), r"unknown modality 'xrays' \(did you mean 'xray'\?\)"),
    "uint8 image": (
        patient(xray=IMAGE.astype(np.uint8)),
        r"'xray': is uint8 \[1, 2, 3\], expected float32 \[1, 2, 3\]",
    ),
    "float64 image": (patient(xray=IMAGE.astype(np.float64)), r"is float64 \[1, 2, 3\], expected float32"),
    "transposed image": (
        patient(xray=IMAGE.swapaxes(1, 2)),
        r"is float32 \[1, 3, 2\], expected float32 \[1, 2, 3\]",
    ),
    "image without channels": (patient(xray=IMAGE[0]), r"is float32 \[2, 3\], expected float32 \[1, 2, 3\]"),
    "image as a list": (patient(xray=IMAGE.tolist()), r"'xray': is list, expected float32"),
    "NaN in an image": (patient(xray=NAN), r"1 values are NaN or infinite, the first nan at \[0, 1, 2\]"),
    "infinite image": (patient(xray=np.full((1, 2, 3), np.inf, np.float32)), r"6 values are NaN or infinite"),
    "a tensor with a gradient": (
        patient(xray=torch.from_numpy(IMAGE).requires_grad_()),
        r"'xray': numpy cannot read it \(.*grad.*\), expected float32 \[1, 2, 3\]",
    ),
    "text that is bytes": (patient(report=b"fever"), r"'report': is bytes, expected str"),
    "text that is a number": (patient(report=3.5), r"'report': is float 3.5, expected str"),
    "panel as a list": (patient(labs=[1, 2]), r"'labs': is list, expected a mapping"),
    "unknown field": (patient(labs={"cpr": 1.0}), r"unknown field 'cpr' \(did you mean 'crp'\?\)"),
    "value that is text": (patient(labs={"crp": "3.5"}), r"field 'crp': is str '3.5', expected a number"),
    "value that is None": (patient(labs={"crp": None}), r"field 'crp': is NoneType, expected a number"),
    "value that is a flag": (patient(labs={"crp": True}), r"field 'crp': is bool True, expected a number"),
    "NaN value": (patient(labs={"crp": math.nan}), r"field 'crp': is nan, expected a finite float32"),
    "infinite value": (patient(labs={"crp": -math.inf}), r"field 'crp': is -inf, expected a finite float32"),
    "value beyond float32": (
        patient(labs={"crp": 1e39}),
        r"field 'crp': is 1e\+39, expected a finite float32",
    ),
    "unknown category": (patient(labs={"sex": "m"}), r"field 'sex': is 'm', expected one of F, M"),
    "label never declared": (
        replace(patient(), labels={"fluu": True}),
        r"unknown label 'fluu' \(did you mean 'flu'\?\), expected one of flu, cold, none, other",
    ),
    "label that is no flag": (
        replace(patient(), labels={"flu": "yes"}),
        r"label 'flu': is 'yes', expected True",
    ),
    "two labels": (replace(patient(), labels={"flu": True, "cold": True}), r"\['flu', 'cold'\] all hold"),
    "no label left": (replace(patient(), labels=dict.fromkeys(TASK.classes, False)), r"every label is False"),
    "unknown finding": (
        replace(patient(), findings={"rash": True}),
        r"unknown finding 'rash', expected one of",
    ),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_by_name(bad, message):
    with pytest.raises(DataError, match=message) as refused:
        Collator(TASK, TOKENIZER)([patient(xray=IMAGE), bad])
    assert str(refused.value).startswith("patient 'p3' (mine.csv:7)")


def test_a_text_without_a_tokenizer_is_refused():
    with pytest.raises(DataError, match="Collator has tokenizer None"):
        Collator(TASK)([patient(report="fever")])


def test_max_tokens_must_leave_room_for_the_special_tokens():
    with pytest.raises(ValueError, match="max_tokens is 1, expected at least 2"):
        Collator(TASK, TOKENIZER, max_tokens=1)
