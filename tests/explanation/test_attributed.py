"""What a server shows of pixels, words and values is what `attribute` says, in JSON's types."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robustmdiff.explanation.attributed import attributor
from robustmdiff.explanation.attribution import attribute, read
from robustmdiff.serving.schemas import attribution
from tests.explanation.ward import NOTE, TASK


@pytest.fixture(scope="module")
def said(model, patient, collator):
    return attributor(model)(patient, collator, "pneumonia")


def test_it_is_what_attribute_says(said, model, patient, collator):
    found = attribute(model, read(model, patient, collator), TASK.classes.index("pneumonia"))
    assert said["target"] == "pneumonia"
    assert said["probability"] == found.probability
    assert said["total"] == found.total
    assert sum(said["total"].values()) == pytest.approx(
        said["probability"] - said["baseline"] - said["completeness_error"], abs=1e-6
    )
    assert said["values"] == {"labs": found.parts["labs"]}
    assert "".join(piece["text"] for piece in said["texts"]["note"]) == NOTE
    words = [piece["points"] for piece in said["texts"]["note"] if piece["share"] is not None]
    assert words == [word.attribution for word in found.parts["note"]]


def test_a_picture_is_there_plain_and_with_its_heat(said):
    assert [len(said["images"][name]) for name in said["images"]] == [
        TASK.modality(name).shape[0] for name in said["images"]
    ]
    for name, channels in said["images"].items():
        for channel in channels:
            for picture in (channel["plain"], channel["heat"]):
                content = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
                assert np.asarray(Image.open(io.BytesIO(content))).shape[:2] == TASK.modality(name).shape[1:]


def test_the_schema_of_the_server_takes_it(said, model, patient, collator):
    validate = pytest.importorskip("jsonschema").validate
    nobody = attributor(model)(replace(patient, modalities={}), collator, "well")
    for each in (said, nobody):
        plain = json.loads(json.dumps(each, allow_nan=False))
        validate({"model": "m", "version": "v", **plain}, attribution(TASK, "m", ["v"]))
    assert (nobody["total"], nobody["images"], nobody["texts"], nobody["values"]) == ({}, {}, {}, {})
