"""Every form of a run side by side: how large, how good, how different, how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from robustmdiff.data.patient import Patient
from robustmdiff.export.parity import compare
from robustmdiff.export.quality import Diagnose, quality
from robustmdiff.predictor import Predictor
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.artefact import Artefact
from robustmdiff.runtime.manifest import Manifest

SIZES = (1, 64)  # patients at a time
ROUNDS = 7


class Form(NamedTuple):
    """One form. What was not measured is None, and `reason` says why.

    form        "torch", or the file that answers
    precision   of its products
    bytes       on disk, of what answers
    auroc       macro, of the run's test patients, complete
    coverage    the share of them whose class is in the prediction set
    difference  the largest of a probability from the run's, as `parity.compare` finds it
    ms_1, ms_64 milliseconds a patient, from the patient to the answer, one and 64 at a time
    """

    form: str
    precision: str
    bytes: int
    auroc: float | None = None
    coverage: float | None = None
    difference: float | None = None
    ms_1: float | None = None
    ms_64: float | None = None
    reason: str = ""


def side_by_side(predictor: Predictor, folders: Sequence[Path], patients: Sequence[Patient]) -> list[Form]:
    """The run in torch, and whatever `export_run` wrote of it into the folders."""
    weights = sum(path.stat().st_size for path in (predictor.run.folder / "model").glob("*.safetensors"))
    forms = {"torch": Form("torch", "fp32", weights, difference=0.0)}
    asked: dict[str, Diagnose] = {"torch": predictor.diagnose}
    for folder in folders:
        manifest = Manifest.load(folder)
        for engine, file in manifest.files_of_engines().items():
            path = folder / file
            size = manifest.engines[file]["bytes"] if file in manifest.engines else path.stat().st_size
            form = Form(str(path), manifest.precision, size)
            try:
                artefact = Artefact.load(folder, engine=engine)
            except Refusal as error:
                forms[form.form] = form._replace(reason=str(error))
                continue
            asked[form.form] = artefact.diagnose
            forms[form.form] = form._replace(difference=compare(predictor, artefact).largest)
    speed = milliseconds(asked, patients)
    for name, diagnose in asked.items():
        auroc, coverage = quality(diagnose(patients), patients, predictor.task)
        one, many = speed[name]
        forms[name] = forms[name]._replace(auroc=auroc, coverage=coverage, ms_1=one, ms_64=many)
    return list(forms.values())


def milliseconds(
    asked: Mapping[str, Diagnose], patients: Sequence[Patient], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """For each form, a patient's milliseconds at each of SIZES: the median of rounds, in each of which every
    form has its turn after a call that is not timed."""
    found: dict[str, list[float]] = {name: [] for name in asked}
    for size in SIZES:
        some = (list(patients) * (size // max(len(patients), 1) + 1))[:size]
        turns: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(rounds):
            for name, diagnose in asked.items():
                diagnose(some)
                start = time.perf_counter()
                diagnose(some)
                turns[name].append(time.perf_counter() - start)
        for name, seconds in turns.items():
            found[name].append(1e3 * statistics.median(seconds) / size)
    return found
