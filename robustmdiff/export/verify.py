"""Whether what was exported is the run: each form that can be run here is asked the same."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from robustmdiff.export.parity import Parity, check, compare
from robustmdiff.export.quality import Quality, check_changed, quality
from robustmdiff.predictor import Predictor
from robustmdiff.runtime.artefact import ENGINES, Artefact
from robustmdiff.runtime.manifest import Manifest

UNRUNNABLE = ("onnx", "bf16")  # ONNX Runtime has no bfloat16 layers for a CPU


class Verified(NamedTuple):
    """changed  how much fewer digits changed macro AUROC and coverage of all test patients; None in fp32."""

    parity: Parity
    changed: Quality | None = None


def verified(predictor: Predictor, folder: Path) -> dict[str, Verified | None]:
    """By engine; None for one that cannot be run here. Raises Refusal for one that answers otherwise than the
    run: in fp32 by its probabilities, in other precisions by what they do to all test patients."""
    manifest, found = Manifest.load(folder), dict[str, Verified | None]()
    for engine in manifest.files_of_engines():
        if engine not in ENGINES or (engine, manifest.precision) == UNRUNNABLE:
            found[engine] = None
            continue
        artefact = Artefact.load(folder, engine=engine)
        parity, changed = compare(predictor, artefact), None
        if manifest.precision == "fp32":
            check(parity, folder)
        else:
            changed = _changed(predictor, artefact)
            check_changed(changed, folder)
        found[engine] = Verified(parity, changed)
    return found


def _changed(predictor: Predictor, artefact: Artefact) -> Quality:
    patients = predictor.patients()
    ours, theirs = (
        quality(diagnose(patients), patients, predictor.task)
        for diagnose in (predictor.diagnose, artefact.diagnose)
    )
    return Quality(theirs.auroc - ours.auroc, theirs.coverage - ours.coverage)
