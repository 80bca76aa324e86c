"""manifest.json: what an exported folder holds, and that it is what was written.

artefact/
  manifest.json    written last
  model.onnx       the engine
  model.engine     another one, of TensorRT, where it was asked for
  model.pt2        another one, of AOTInductor, where it was asked for
  model.xml, .bin  another one, of OpenVINO, where it was asked for
  encode.onnx, step.onnx, answer.onnx  the model in three, for who drives its chain, where it was asked for
  noise.npz        what the draws are made of, where the model makes draws
  tokenizer.json   where the task has text
  model_card.json  what it is for, of whom it was made, how well it does for whom
  bom.cdx.json     what it consists of (CycloneDX)
  model.sig        who vouches for it, where it was signed; no other file names it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from robustmdiff.data.task import Task
from robustmdiff.data.task_file import task_from
from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole

MANIFEST, FORMAT = "manifest.json", 1
NOISE, TOKENIZER = "noise.npz", "tokenizer.json"


@dataclass(frozen=True)
class Manifest:
    """task        modalities with their fields, units, windows and sizes, and the classes
    engine      the format of the engine ("onnx"), and model the file that it is
    precision   that layers multiply in: "fp32", "fp16", "bf16" or "int8"
    max_tokens  of a text; longer ones lose their end
    answer      which of the model's answers the probability is
    draws       how many are made; 0: none
    version     of the package that exported
    files       SHA-256 of every other file of the folder, by name
    together    combinations of modalities that training patients had, within which a view can be asked for;
                none where the graph takes no view
    usual_change  by modality, how far seeing it moved the diagnosis of training patients, where it is known
    engines     others that were built of the model, by the name of their file: their format, what built them,
                and for what; of encode.onnx the chain that step.onnx is driven by
    """

    task: Task
    engine: str
    model: str
    precision: str
    max_tokens: int
    answer: str
    draws: int
    version: str
    files: Mapping[str, str]
    together: Sequence[Sequence[str]] = ()
    usual_change: Mapping[str, float] = field(default_factory=dict)
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def files_of_engines(self) -> dict[str, str]:
        """The file of each format."""
        return {self.engine: self.model} | {built["engine"]: name for name, built in self.engines.items()}

    def save(self, folder: Path) -> None:
        plain = {"format": FORMAT, **asdict(self), "task": self.task.to_json()}
        write_whole(folder / MANIFEST, json.dumps(plain, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The manifest of a folder whose files are as they were written. Raises Refusal, which names one that
        is not."""
        path = folder / MANIFEST
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("format") != FORMAT:
                raise Refusal(f"{path}: format is not {FORMAT}, which this version reads; export anew")
            found = cls(**{**plain, "task": task_from(plain["task"], f"{path}: task")})
            files = dict(found.files)
        except OSError as error:
            raise Refusal(f"{folder}: holds no exported model, expected {MANIFEST}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, Refusal):
                raise
            raise Refusal(f"{path}: is no manifest of an exported model ({error})") from error
        for name, written in files.items():
            check_file(folder, name, written)
        return found


def check_file(folder: Path, name: str, written: str) -> None:
    """Raises Refusal unless a file of the folder has the SHA-256 that was written."""
    path = folder / name
    if Path(name).name != name:
        raise Refusal(f"{folder / MANIFEST}: names the file {name!r}, expected one of its own folder")
    try:
        found = sha256(path)
    except OSError as error:
        raise Refusal(f"{path}: cannot be read ({error.strerror}), expected what was exported") from error
    if found != written:
        raise Refusal(
            f"{path}: is not the file that was exported (SHA-256 {found[:12]}..., expected "
            f"{str(written)[:12]}...)"
        )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
