"""Whether what was exported is the run: each form that can be run here is asked the same."""

from __future__ import annotations

from pathlib import Path

from robustmdiff.export.parity import Parity, check, compare
from robustmdiff.export.quality import check_quality, quality
from robustmdiff.predictor import Predictor
from robustmdiff.runtime.artefact import ENGINES, Artefact
from robustmdiff.runtime.manifest import Manifest

UNRUNNABLE = ("onnx", "bf16")  # ONNX Runtime has no bfloat16 layers for a CPU


def verified(predictor: Predictor, folder: Path) -> dict[str, Parity | None]:
    """By engine; None for one that cannot be run here. Raises Refusal for one that answers otherwise than the
    run: in fp32 by its probabilities, in other precisions by what they do to all test patients."""
    manifest, found = Manifest.load(folder), dict[str, Parity | None]()
    patients = predictor.patients() if manifest.precision != "fp32" else []
    for engine in manifest.files_of_engines():
        if engine not in ENGINES or (engine, manifest.precision) == UNRUNNABLE:
            found[engine] = None
            continue
        artefact = Artefact.load(folder, engine=engine)
        found[engine] = parity = compare(predictor, artefact)
        if manifest.precision == "fp32":
            check(parity, folder)
        else:
            ours = quality(predictor.diagnose(patients), patients, predictor.task)
            theirs = quality(artefact.diagnose(patients), patients, predictor.task)
            check_quality(ours, theirs, folder)
    return found
