"""bom.cdx.json against the schema that CycloneDX publishes."""

from __future__ import annotations

import json

import onnxruntime
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from robustmdiff.export.bill_of_materials import bill_of_materials
from robustmdiff.runtime.manifest import sha256

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
MEASURED = {
    "records": 60,
    "people": 60,
    "notes": [],
    "metrics": {"mcar/0.0": {"auroc/macro": [0.9, 0.85, 0.95], "auroc/rare": [None, None, None]}},
    "subgroups": [
        {"group": "site north", "metrics": {"mcar/0.0": {"coverage": [0.88, None, None]}}},
    ],
}


@pytest.fixture
def card(with_draws) -> dict:
    return json.loads((with_draws.folder / "model_card.json").read_text(encoding="utf-8"))


def test_what_is_written_is_valid_and_names_every_file(with_draws, card):
    written = (with_draws.folder / "bom.cdx.json").read_text(encoding="utf-8")
    assert VALIDATOR.validate_str(written) is None
    bom = json.loads(written)
    assert bom == bill_of_materials(card)
    parts = {part["bom-ref"]: part for part in bom["components"]}
    for name in card["sha256"]["files"]:
        (digest,) = parts[f"file:{name}"]["hashes"]
        assert digest == {"alg": "SHA-256", "content": sha256(with_draws.folder / name)}
    versions = {part["name"]: part.get("version") for part in parts.values() if part["type"] == "library"}
    assert versions.keys() == {"robustmdiff", "numpy", "onnxruntime", "tokenizers", "pillow"}
    assert versions["onnxruntime"] == onnxruntime.__version__
    (depends,) = bom["dependencies"]
    assert set(depends["dependsOn"]) == set(parts)


def test_one_that_leaves_the_schema_is_told():
    assert VALIDATOR.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "more": 1}') is not None


def test_what_was_measured_of_whom_is_a_slice(card):
    bom = bill_of_materials(card | {"evaluation": MEASURED})
    assert VALIDATOR.validate_str(json.dumps(bom)) is None
    analysis = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    assert analysis["performanceMetrics"] == [
        {
            "type": "auroc/macro",
            "value": "0.9",
            "slice": "mcar/0.0",
            "confidenceInterval": {"lowerBound": "0.85", "upperBound": "0.95"},
        },
        {"type": "coverage", "value": "0.88", "slice": "site north, mcar/0.0"},
    ]


def test_a_pretrained_encoder_and_names_of_any_alphabet_are_parts_of_it(card):
    card["task"]["modalities"]["Röntgen 肺"] = {"kind": "image", "encoder": "hospital/vision-model"}
    bom = bill_of_materials(card)
    assert VALIDATOR.validate_str(json.dumps(bom)) is None
    (encoder,) = [part for part in bom["components"] if part["type"] == "machine-learning-model"]
    assert (encoder["name"], encoder["bom-ref"]) == ("hospital/vision-model", "encoder:Röntgen 肺")


def test_a_file_that_is_another_gives_another_serial_number(card):
    before = bill_of_materials(card)["serialNumber"]
    card["sha256"]["files"]["model.onnx"] = "0" * 64
    assert bill_of_materials(card)["serialNumber"] != before
