"""A trained run as a folder that needs no torch: `robustmdiff.runtime.Artefact` loads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import robustmdiff
from robustmdiff.data.tokenizer import save_tokenizer
from robustmdiff.experiment.run import Run, load_run
from robustmdiff.export.graph import DiagnosisGraph, check_exportable
from robustmdiff.export.onnx import to_onnx
from robustmdiff.export.program import noise_of, trace
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.manifest import MANIFEST, NOISE, TOKENIZER, Manifest, sha256
from robustmdiff.whole import write_whole


class Format(NamedTuple):
    """How a graph becomes a file of the folder: its name, and write(graph, path)."""

    model: str
    write: Callable[[DiagnosisGraph, Path], None]


def write_onnx(graph: DiagnosisGraph, path: Path) -> None:
    program, example, outputs = trace(graph)
    write_whole(path, to_onnx(program, list(example), outputs).SerializeToString())


FORMATS: Mapping[str, Format] = {"onnx": Format("model.onnx", write_onnx)}


def export_run(run: Run | str | Path, folder: str | Path, *, to: str = "onnx") -> Path:
    """Write the folder; the manifest last, so that a folder that loads is whole.

    Raises Refusal for a model that cannot be exported, a format that is not known, and a folder that holds
    an exported model.
    """
    run, folder = run if isinstance(run, Run) else load_run(run), Path(folder)
    if to not in FORMATS:
        raise Refusal(f"export: to is {to!r}, expected one of {', '.join(FORMATS)}")
    if (folder / MANIFEST).exists():
        raise Refusal(f"{folder}: holds an exported model, expected a new folder")
    model, config = run.model, run.model.config
    check_exportable(model)
    graph = DiagnosisGraph(model, run.conformal, run.abstention)
    files = [FORMATS[to].model]
    FORMATS[to].write(graph, folder / files[0])
    if noise := noise_of(graph):
        files.append(NOISE)
        write_whole(folder / NOISE, _npz(noise))
    if run.collator.tokenizer is not None:
        files.append(TOKENIZER)
        save_tokenizer(run.collator.tokenizer, folder / TOKENIZER)
    Manifest(
        task=model.task,
        engine=to,
        model=files[0],
        precision="fp32",
        max_tokens=config.max_tokens,
        answer=model.answer,
        draws=config.draws if noise else 0,
        version=robustmdiff.__version__,
        files={name: sha256(folder / name) for name in files},
    ).save(folder)
    return folder


def _npz(arrays: Mapping[str, Any]) -> bytes:
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
