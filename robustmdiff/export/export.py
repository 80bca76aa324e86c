"""A trained run as a folder that needs no torch: `robustmdiff.runtime.Artefact` loads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

import robustmdiff
from robustmdiff.data.tokenizer import save_tokenizer
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.experiment.run import Run, load_run
from robustmdiff.explanation.acquisition import usual_changes
from robustmdiff.export.aoti import build_package
from robustmdiff.export.bill_of_materials import BOM, bill_of_materials, to_bytes
from robustmdiff.export.card import CARD, model_card
from robustmdiff.export.graph import DiagnosisGraph, check_exportable
from robustmdiff.export.int8 import to_int8
from robustmdiff.export.onnx import to_onnx
from robustmdiff.export.openvino import build_openvino
from robustmdiff.export.precision import DTYPES
from robustmdiff.export.program import axes_of, example_of, noise_of, trace
from robustmdiff.export.sampler import SAMPLERS
from robustmdiff.export.single_step import ANSWER, ENCODE, STEP, build_single_step
from robustmdiff.export.tensorrt import build_engine
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.inputs import Arrays, everything, feed
from robustmdiff.runtime.manifest import MANIFEST, NOISE, TOKENIZER, Manifest, sha256
from robustmdiff.whole import write_whole

FORMATS = ("onnx", "tensorrt", "aoti", "openvino")
PRECISIONS = (*DTYPES, "int8")
SINGLE_STEP = "single-step"
FORMS = (*SAMPLERS, SINGLE_STEP)
CALIBRATING, EIGHT = 64, 8  # patients, and how many at a time
MODEL, ENGINE, PACKAGE, OPENVINO = "model.onnx", "model.engine", "model.pt2", "model.xml"


def export_run(
    run: Run | str | Path,
    folder: str | Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    sampler: str | None = None,
) -> Path:
    """Write the folder; the manifest last, so that a folder that loads is whole.

    to  "onnx"; "tensorrt", "aoti", "openvino": a TensorRT engine, an AOTInductor package or OpenVINO's own
        format of the graph as well, beside it.
    precision  that layers multiply in: "fp32", "fp16", "bf16"; "int8", whose scales are from the run's
               calibration patients, of what is made of the ONNX model.

    sampler    how the chain of a second stage is written: "loop" or "unrolled"; unless given, unrolled where
               it is short. "single-step": beside the model as three graphs, the second of one evaluation.

    Raises Refusal for a model that cannot be exported, a format that is not known, and a folder that holds
    an exported model.
    """
    run, folder = run if isinstance(run, Run) else load_run(run), Path(folder)
    if to not in FORMATS:
        raise Refusal(f"export: to is {to!r}, expected one of {', '.join(FORMATS)}")
    if (folder / MANIFEST).exists():
        raise Refusal(f"{folder}: holds an exported model, expected a new folder")
    if precision not in PRECISIONS:
        raise Refusal(f"export: precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "int8" and to == "aoti":
        raise Refusal("export: precision is 'int8' to aoti, expected fp32, fp16 or bf16")
    if precision != "fp32" and to == "openvino":
        raise Refusal(f"export: precision is {precision!r} to openvino, expected fp32")
    if sampler not in (None, *FORMS):
        raise Refusal(f"export: sampler is {sampler!r}, expected one of {', '.join(FORMS)}")
    if sampler == SINGLE_STEP and (to != "onnx" or precision == "int8"):
        raise Refusal(f"export: sampler is {sampler!r} to {to} in {precision}, expected onnx, and not int8")
    model, config = check_exportable(run.model), run.model.config
    if sampler == SINGLE_STEP and model.second_stage is None:
        raise Refusal(f"export: sampler is {sampler!r}, and the model has no chain, expected a second stage")
    dtype, form = DTYPES.get(precision, torch.float32), None if sampler == SINGLE_STEP else sampler
    graph = DiagnosisGraph(model, run.conformal, run.abstention, dtype, form)
    files, engines = [MODEL], {}
    traced = trace(graph, example_of(graph), axes_of(graph))
    content, noise = to_onnx(traced), noise_of(graph)
    if precision == "int8":
        content = to_int8(content, calibrating(run, noise))
    write_whole(folder / MODEL, content)
    if noise:
        files.append(NOISE)
        write_whole(folder / NOISE, _npz(noise))
    if run.collator.tokenizer is not None:
        files.append(TOKENIZER)
        save_tokenizer(run.collator.tokenizer, folder / TOKENIZER)
    if to == "tensorrt":
        files.append(ENGINE)
        built = build_engine(folder / MODEL, folder / ENGINE, config.max_tokens, config.draws if noise else 0)
        engines[ENGINE] = {"engine": "tensorrt", **built._asdict()}
    if to == "aoti":
        files.append(PACKAGE)
        engines[PACKAGE] = build_package(traced, folder / PACKAGE, model.task.classes)
    if to == "openvino":
        engines[OPENVINO] = build_openvino(content, folder / OPENVINO)
        files += [OPENVINO, Path(OPENVINO).with_suffix(".bin").name]
    if sampler == SINGLE_STEP:
        engines[ENCODE] = build_single_step(graph, folder)
        files += [ENCODE, STEP, ANSWER]
    card = model_card(run, {name: sha256(folder / name) for name in files})
    for name, document in ((CARD, card), (BOM, bill_of_materials(card))):
        files.append(name)
        write_whole(folder / name, to_bytes(document))
    Manifest(
        task=model.task,
        engine="onnx",
        model=MODEL,
        precision=precision,
        max_tokens=config.max_tokens,
        answer=model.answer,
        draws=config.draws if noise else 0,
        version=robustmdiff.__version__,
        together=_together(model) if noise else (),
        usual_change=usual_changes(model),
        files={name: sha256(folder / name) for name in files},
        engines=engines,
    ).save(folder)
    return folder


def calibrating(run: Run, noise: Arrays) -> Iterator[Arrays]:
    """A graph's inputs, of the run's first calibration patients: complete, and with what they lack."""
    patients = run.study().patients["calibration"][:CALIBRATING]
    task, given = run.model.task, {f"noise_{name}": x for name, x in noise.items()}
    for i in range(0, len(patients), EIGHT):
        some = patients[i : i + EIGHT]
        view = everything(len(some), task) if noise else {}
        yield feed(run.collator(some), task) | view | given


def _together(model: RobustMDiff) -> list[list[str]]:
    held = (
        [name for name, has in zip(model.task.modality_names, view, strict=True) if has]
        for view in model.views.tolist()
    )
    return [names for names in held if names]


def _npz(arrays: Mapping[str, Any]) -> bytes:
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
