"""A model on disk: `save_pretrained` and `load_pretrained`, a folder with everything it needs.

model.safetensors   weights
model.json          kind of model, task, sizes, which of its answers it gives
concepts.npz        the concept table, where the model has one
tokenizer.json      where the task has text
encoders/NAME.json  the architecture of a modality's transformers model, where it named one
forecast.json, forecast.safetensors  the second stage, where the model has one (`diagnosis.second_stage`)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustmdiff.data.task_file import task_from
from robustmdiff.data.tokenizer import load_tokenizer, save_tokenizer
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.model import RobustMDiff
from robustmdiff.diagnosis.second_stage import WEIGHTS, SecondStage
from robustmdiff.encoders.backbone import save_architectures, with_architectures
from robustmdiff.encoders.config import ModelConfig, without_retired
from robustmdiff.knowledge.archive import read_concepts, save_concepts
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError, load_weights
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1


class PretrainedError(Refusal):
    """A model folder that is damaged, or not what was asked for; the message names the file."""


def save_pretrained(
    model: DiagnosisModel,
    folder: str | Path,
    *,
    kind: str,
    tokenizer: Tokenizer | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's folder; each file appears whole or not at all, the weights last.

    kind is the model's name among those that `load_pretrained` will be offered, options what its
    constructor needs beyond task and config, in JSON's types.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder / "tokenizer.json")
    if model.concept_table is not None:
        save_concepts(model.concept_table, folder / "concepts.npz")
    if model.encoders is not None:
        save_architectures(model.encoders.encoders, model.task, folder / "encoders")
    plain = {
        "format": FORMAT,
        "kind": kind,
        "task": model.task.to_json(),
        "config": asdict(model.config),
        "options": dict(options or {}),
        "answer": model.answer,
    }
    write_whole(folder / "model.json", json.dumps(plain, indent=1).encode())
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    own = {name: value for name, value in state.items() if not name.startswith("second_stage.")}
    if isinstance(model, RobustMDiff) and model.second_stage is not None:
        model.second_stage.save(folder)
    write_whole(folder / "model.safetensors", save(own, {"format": "pt"}))


def load_pretrained(
    folder: str | Path, kinds: Mapping[str, Callable[..., DiagnosisModel]]
) -> tuple[DiagnosisModel, Tokenizer | None]:
    """The model of a folder, in evaluation mode, and its tokenizer. What an earlier version saved loads, too.

    kinds maps each kind to what builds it: build(task, config, concepts=, tokenizer=, **options).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    description = read_description(folder)
    kind = description["kind"]
    if kind not in kinds:
        raise PretrainedError(
            f"{folder / 'model.json'}: kind is {kind!r}, expected one of {', '.join(kinds)}"
        )
    has_text, has_concepts = (folder / "tokenizer.json").exists(), (folder / "concepts.npz").exists()
    tokenizer = load_tokenizer(folder / "tokenizer.json") if has_text else None
    concepts = read_concepts(folder / "concepts.npz") if has_concepts else None
    task = task_from(with_architectures(description["task"], folder / "encoders"), f"{folder}/model.json")
    config = ModelConfig(**without_retired(description["config"]))
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise PretrainedError(f"{weights}: cannot be read ({error}), expected whole weights") from error
    options = description["options"]
    if any(name.startswith("denoiser.") for name in state):  # which an earlier version had unless told
        options = {"denoiser": True} | options
    model = kinds[kind](task, config, concepts=concepts, tokenizer=tokenizer, **options)
    own = model.state_dict()
    state = {model.renamed.get(name, name): value for name, value in state.items()}
    state = {name: own[name] for name in model.added} | state
    try:
        load_weights(model, state, weights)
    except CheckpointError as error:
        another = "these weights belong to another configuration than model.json"
        raise PretrainedError(f"{error}; {another}") from error
    if isinstance(model, RobustMDiff) and (folder / WEIGHTS).exists():
        model.second_stage = SecondStage.load(folder, model)
    model.answer = description.get("answer", model.answer)  # of an earlier version the one that it gave
    if model.answer not in model.answers:
        raise PretrainedError(
            f"{folder / 'model.json'}: answer is {model.answer!r}, expected one of {', '.join(model.answers)}"
        )
    return model.eval(), tokenizer


def read_description(folder: str | Path) -> dict[str, Any]:
    """model.json of a folder, checked for its format."""
    path = Path(folder) / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PretrainedError(f"{path}: no model there ({os.strerror(error.errno or 0)})") from error
    except ValueError as error:
        raise PretrainedError(
            f"{path}: is not JSON ({error}), expected what save_pretrained wrote"
        ) from error
    if description.get("format") != FORMAT:
        raise PretrainedError(f"{path}: format is {description.get('format')}, expected {FORMAT}")
    return description
