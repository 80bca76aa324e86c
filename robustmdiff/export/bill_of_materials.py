"""bom.cdx.json: what an exported model consists of, as a CycloneDX 1.6 ML-BOM (ECMA-424).

The same files give the same bytes: there is no time in it, and its serial number is made of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from robustmdiff.data.kinds import KINDS
from robustmdiff.export.card import Json

BOM = "bom.cdx.json"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MADE_WITH = ("robustmdiff", "torch", "transformers", "onnx", "onnxscript", "tensorrt_rtx", "tensorrt")
MODEL = "model"  # its bom-ref


def bill_of_materials(card: Json) -> Json:
    """Of the model that `card.model_card` tells of."""
    files, modalities = card["sha256"]["files"], card["task"]["modalities"]
    parts = [
        *(_file(name, digest) for name, digest in files.items()),
        *(_package(name) for name in _needed(card)),
        *(_pretrained(name, m["encoder"]) for name, m in modalities.items() if m["encoder"] is not None),
        _data(card),
    ]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_OID, json.dumps(files, sort_keys=True))}",
        "version": 1,
        "metadata": {
            "tools": {"components": [_package(name) for name in MADE_WITH if _version(name)]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": MODEL,
                "name": card["name"],
                "version": card["version"],
                "hashes": [_sha256(card["sha256"]["run"])],
                "modelCard": _model_card(card),
            },
        },
        "components": parts,
        "dependencies": [{"ref": MODEL, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _model_card(card: Json) -> Json:
    modalities = card["task"]["modalities"].items()
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "multilabel classification" if card["task"]["multilabel"] else "classification",
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": f"{name}: {modality['kind']}"} for name, modality in modalities],
            "outputs": [{"format": f"probability of {name}"} for name in card["task"]["classes"]],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_measured(card["evaluation"]))},
        "considerations": {
            "useCases": [card["intended_use"], f"Not intended: {card['not_intended']}"],
            "technicalLimitations": card["limits"],
        },
    }


def _measured(evaluation: Json | None) -> Iterator[Json]:
    """A slice is a condition (`evaluation.conditions`), and a subgroup where it is of one."""
    if evaluation is None:
        return
    of_all = [("", evaluation["metrics"])]
    of_groups = [(f"{group['group']}, ", group["metrics"]) for group in evaluation["subgroups"]]
    for who, conditions in of_all + of_groups:
        for condition, metrics in conditions.items():
            for metric, (value, low, high) in metrics.items():
                if value is None:
                    continue
                measured = {"type": metric, "value": str(value), "slice": f"{who}{condition}"}
                if low is not None and high is not None:
                    measured |= {"confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)}}
                yield measured


def _needed(card: Json) -> Sequence[str]:
    """The packages that answer with the folder."""
    kinds = {modality["kind"] for modality in card["task"]["modalities"].values()}
    needs = {package for kind in kinds for package in KINDS[kind].needs}
    return ["robustmdiff", "numpy", "onnxruntime", *sorted(needs)]


def _file(name: str, digest: str) -> Json:
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(digest)]}


def _package(name: str) -> Json:
    found = _version(name)
    purl = f"pkg:pypi/{name.replace('_', '-')}" + (f"@{found.replace('+', '%2B')}" if found else "")
    return {"type": "library", "bom-ref": purl, "name": name, "purl": purl} | (
        {"version": found} if found else {}
    )


def _pretrained(modality: str, name: str) -> Json:
    about = f"reads {modality}; trained further, and part of the model"
    return {
        "type": "machine-learning-model",
        "bom-ref": f"encoder:{modality}",
        "name": name,
        "description": about,
    }


def _data(card: Json) -> Json:
    people = card["populations"]
    counts = ", ".join(f"{n} {name}" for name, n in people["records"].items())
    dataset = {"type": "dataset", "name": people["data"], "description": f"records: {counts}"}
    return {"type": "data", "bom-ref": "data", "name": people["data"], "data": [dataset]}


def _sha256(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def to_bytes(document: Any) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()
