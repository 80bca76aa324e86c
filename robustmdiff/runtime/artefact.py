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
from robustmdiff.ranking import Array
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.inputs import Arrays, feed
from robustmdiff.runtime.manifest import NOISE, TOKENIZER, Manifest

BATCH = 64  # patients at a time

Engine = Callable[[Arrays], Arrays]


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
    def load(cls, folder: str | Path, *, threads: int | None = None) -> Self:
        """threads  that one call may use; unless given, as many as the engine takes.

        Raises Refusal for a folder whose files are not those that were exported, and where the engine's
        package is not installed.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        if manifest.engine not in ENGINES:
            raise Refusal(f"{folder}: engine is {manifest.engine!r}, expected one of {', '.join(ENGINES)}")
        tokenizer, noise = None, {}
        if (folder / TOKENIZER).exists():
            tokenizer = load_tokenizer(folder / TOKENIZER)
        if manifest.draws:
            with np.load(folder / NOISE) as saved:
                noise = {f"noise_{name}": saved[name] for name in saved.files}
        engine = ENGINES[manifest.engine](folder / manifest.model, threads)
        return cls(manifest, engine, Collator(manifest.task, tokenizer, manifest.max_tokens), noise)

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
        return self.answers(batch, self.engine(feed(batch, self.task) | self.noise))

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


ENGINES: Mapping[str, Callable[[Path, int | None], Engine]] = {"onnx": onnx_runtime}
