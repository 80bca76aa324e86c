"""Files of what was generated: each says that it is synthetic, and has a record beside it."""

import hashlib
import json

import numpy as np
import pytest

from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.generation.medm2g import Made
from robustmdiff.generation.written import write_made
from robustmdiff.refusal import Refusal

TASK = Task(
    modalities=(
        Modality("xray", "image", shape=(1, 8, 8)),
        Modality("ct", "image", shape=(2, 8, 8), window=(-1000.0, 300.0)),
        Modality("text", "text"),
    ),
    classes=("ill", "well"),
    prevalence=(0.5, 0.5),
)
MADE = Made(
    patient="p/1",
    given=("text",),
    made={
        "xray": [np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)],
        "ct": [np.zeros((2, 8, 8), np.float32)],
        "text": ["Lungs clear."],
    },
    how={"xray": "drawn from the prompts text", "ct": "drawn from it", "text": "drawn from it"},
)


def test_every_draw_has_a_file_of_each_format_and_a_record(tmp_path):
    written = write_made(MADE, TASK, tmp_path, ("png", "nii", "dcm"), {"model": "m", "seed": 3})
    suffixes = sorted(path.name.partition(".")[2] for path in written)
    assert suffixes == sorted(["png", "nii.gz", "dcm"] * 2 + ["png", "nii.gz", "dcm", "dcm"] + ["txt"])
    assert all(path.name.startswith("synthetic-p_1-") for path in written)
    assert len({path.name for path in written}) == len(written)
    for path in written:
        record = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
        assert record["synthetic"] is True
        assert (record["model"], record["seed"]) == ("m", 3)
        assert record["given"] == ["text"]
        assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(list(tmp_path.iterdir())) == 2 * len(written)


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(Refusal, match="format is 'jpg', expected one of png, nii, dcm"):
        write_made(MADE, TASK, tmp_path, ("png", "jpg"), {})
    assert not list(tmp_path.iterdir())
