"""An exported model, ready to be asked: without torch and without transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np

from robustmdiff.answer import INTERVAL, Answer, Computed, answers
from robustmdiff.data.batch import Batch
from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.data.tokenizer import load_tokenizer
from robustmdiff.next_test import Change, NextTest, ranked
from robustmdiff.ranking import Array
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.inputs import Arrays, everything, feed, with_one_more
from robustmdiff.runtime.manifest import NOISE, TOKENIZER, Manifest
from robustmdiff.runtime.single_step import Engine, driven

BATCH = 64  # patients at a time


class Artefact:
    """What `robustmdiff export` wrote.

        model = Artefact.load("exported")
        answer = model.diagnose(Patient("p1", {"note": "cough and fever", "labs": {"CRP": 120.0}}))
        answer.probability, answer.prediction

    Answers are those of the `Predictor` of the run, with its seed 0 and its own number of draws, to rounding.
    May be shared by threads.
    """

    def __init__(self, manifest: Manifest, engine: Engine, collator: Collator, noise: Arrays) -> None:
        self.manifest, self.engine, self.collator, self.noise = manifest, engine, collator, noise

    @classmethod
    def load(cls, folder: str | Path, *, engine: str | None = None, threads: int | None = None) -> Self:
        """engine   "onnx"; or "single-step", "openvino", or "aoti", which needs torch, where it was exported
                 as well.
        threads  that one call of ONNX Runtime or OpenVINO may use; unless given, as many as it takes.

        Raises Refusal for a folder whose files are not those that were exported, and where the engine's
        package is not installed.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        engine, there = engine or manifest.engine, manifest.files_of_engines()
        if engine not in there:
            raise Refusal(f"{folder}: engine is {engine!r}, expected one that it holds: {', '.join(there)}")
        if engine not in ENGINES:
            known = ", ".join(ENGINES)
            raise Refusal(f"{folder / there[engine]}: {engine} cannot be run here, expected one of {known}")
        tokenizer, noise = None, {}
        if (folder / TOKENIZER).exists():
            tokenizer = load_tokenizer(folder / TOKENIZER)
        if manifest.draws:
            with np.load(folder / NOISE) as saved:
                noise = {f"noise_{name}": saved[name] for name in saved.files}
        run = ENGINES[engine](folder / there[engine], threads)
        return cls(manifest, run, Collator(manifest.task, tokenizer, manifest.max_tokens), noise)

    @property
    def task(self) -> Task:
        return self.manifest.task

    @overload
    def diagnose(self, patients: Patient) -> Answer: ...
    @overload
    def diagnose(self, patients: Sequence[Patient]) -> list[Answer]: ...
    def diagnose(self, patients: Patient | Sequence[Patient]) -> Answer | list[Answer]:
        """One patient, or all of several. Raises DataError for one who is not what the task declares."""
        if isinstance(patients, Patient):
            return self._diagnose([patients])[0]
        starts = range(0, len(patients), BATCH)
        return [answer for i in starts for answer in self._diagnose(patients[i : i + BATCH])]

    def _diagnose(self, patients: Sequence[Patient]) -> list[Answer]:
        batch = self.collator(patients)
        return self.answers(batch, self.engine(self.inputs(batch)))

    def inputs(self, batch: Batch[np.ndarray]) -> Arrays:
        """What the engine takes, of the patients of a batch: `model.inputs(model.collator([patient]))`."""
        return self.everything(len(batch)) | feed(batch, self.task) | self.noise

    def everything(self, patients: int) -> Arrays:
        """What the engine takes beside the patients and the noise: the view that leaves nothing out."""
        return everything(patients, self.task) if self.manifest.together else {}

    def next_test(self, patient: Patient) -> tuple[NextTest, ...]:
        """The modalities that the patient lacks, the one that would move the diagnosis most for its cost
        first, as `Predictor.next_test`. Raises Refusal where the graph takes no view."""
        if not self.manifest.together:
            raise Refusal(
                "next_test: the model makes no draws, or an earlier version exported it, expected one with a "
                "second stage, exported anew"
            )
        names, arrays = self.with_one_more(feed(self.collator([patient]), self.task))
        return self.next_tests(names, self.engine(arrays | self.noise)) if names else ()

    def with_one_more(self, patient: Arrays) -> tuple[list[str], Arrays]:
        """As `runtime.inputs.with_one_more`, by the views of the manifest."""
        names = self.task.modality_names
        together = [[name in view for name in names] for view in self.manifest.together]
        return with_one_more(patient, self.task, np.array(together))

    def next_tests(self, names: Sequence[str], said: Arrays) -> tuple[NextTest, ...]:
        """What the engine said of a patient `with_one_more`, in words."""
        told = (said[key].tolist() for key in ("expected_change", "entropy_reduction"))
        changes = [Change(*each) for each in zip(names, *told, strict=True)]
        return ranked(self.task, changes, self.manifest.usual_change)

    def answers(self, batch: Batch[np.ndarray], said: Arrays) -> list[Answer]:
        """What the engine said of the patients of a batch, in words."""
        computed = Computed(
            said["probability"],
            said["in_set"],
            said.get("unlike_training"),
            said.get("findings"),
            _interval(said["draws"]) if "draws" in said else None,
        )
        return answers(self.task, batch.ids, batch.presence, computed, self.manifest.answer)


def _interval(draws: Array) -> tuple[Array, Array]:
    """The ends of what draws [B, S, C] say."""
    low, high = np.quantile(draws, INTERVAL, axis=1)
    return low, high


def onnx_runtime(model: Path, threads: int | None) -> Engine:
    try:
        import onnxruntime
    except ImportError as error:
        raise Refusal(f"{model}: needs ONNX Runtime, expected `pip install onnxruntime`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, none with a name of its own
        raise Refusal(f"{model}: ONNX Runtime cannot load it ({error})") from error
    names = [output.name for output in session.get_outputs()]

    def run(arrays: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, arrays), strict=True))

    return run


def single_step(model: Path, threads: int | None) -> Engine:
    return driven(model, lambda path: onnx_runtime(path, threads))


def aot_inductor(model: Path, threads: int | None) -> Engine:
    try:
        import torch
        from torch._inductor import aoti_load_package
    except ImportError as error:
        raise Refusal(f"{model}: needs torch, expected `pip install torch`") from error
    package = aoti_load_package(str(model))
    names = package.get_metadata()["inputs"].splitlines()

    def run(arrays: Arrays) -> Arrays:
        # The package goes by the order of its inputs, and reads them end to end.
        inputs = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in names}
        return {name: x.numpy() for name, x in package(inputs).items()}

    return run


def openvino(model: Path, threads: int | None) -> Engine:
    try:
        from openvino import Core
    except ImportError as error:
        raise Refusal(f"{model}: needs OpenVINO, expected `pip install openvino`") from error
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_NUM_THREADS": str(threads)} if threads else {}
    core = Core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings)

    def run(arrays: Arrays) -> Arrays:
        found = compiled.create_infer_request().infer(arrays)  # a request of its own: threads share the model
        return {output.any_name: np.array(found[output]) for output in compiled.outputs}

    return run


ENGINES: Mapping[str, Callable[[Path, int | None], Engine]] = {
    "onnx": onnx_runtime,
    "aoti": aot_inductor,
    "openvino": openvino,
    "single-step": single_step,
}
