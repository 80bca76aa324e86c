"""Aligned encoders on disk, and what they give a diagnosis model.

model.safetensors   weights
model.json          task, sizes, which modalities are aligned
tokenizer.json      where a text is among them
encoders/NAME.json  the architecture of a modality's transformers model, where it named one
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from robustmdiff.alignment.prompts import PromptEncoders
from robustmdiff.data.task_file import task_from
from robustmdiff.data.tokenizer import load_tokenizer, save_tokenizer
from robustmdiff.encoders.backbone import save_architectures, with_architectures
from robustmdiff.encoders.config import EncoderConfig
from robustmdiff.encoders.modalities import ModalityEncoders
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import CheckpointError, load_weights
from robustmdiff.whole import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 2
KIND = "prompts"


def save_prompts(model: PromptEncoders, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder; each file appears whole or not at all, the weights last."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder / "tokenizer.json")
    save_architectures(model.encoders.encoders, model.task, folder / "encoders")
    plain = {
        "format": FORMAT,
        "kind": KIND,
        "task": model.task.to_json(),
        "config": asdict(model.config),
        "d": model.d,
        "modalities": model.names,
    }
    write_whole(folder / "model.json", json.dumps(plain, indent=1).encode())
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_whole(folder / "model.safetensors", save(state, {"format": "pt"}))


def load_prompts(folder: str | Path) -> tuple[PromptEncoders, Tokenizer | None]:
    """The encoders of a folder, in evaluation mode, and their tokenizer. Raises CheckpointError for a folder
    that `save_prompts` did not write, or that was damaged since."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    where, weights = folder / "model.json", folder / "model.safetensors"
    try:
        plain = json.loads(where.read_text(encoding="utf-8"))
        if (plain["format"], plain["kind"]) != (FORMAT, KIND):
            raise CheckpointError(
                f"{where}: is of kind {plain['kind']!r}, format {plain['format']}, expected aligned encoders "
                f"({KIND!r}, {FORMAT})"
            )
        task = task_from(with_architectures(plain["task"], folder / "encoders"), str(where))
        model = PromptEncoders(task, EncoderConfig(**plain["config"]), d=plain["d"], only=plain["modalities"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{where}: cannot be read ({error!r}), expected aligned encoders") from error
    try:
        load_weights(model, load_file(weights), weights)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{weights}: cannot be read ({error}), expected whole weights") from error
    own = folder / "tokenizer.json"
    return model.eval(), load_tokenizer(own) if own.exists() else None


def load_aligned(encoders: ModalityEncoders, aligned: PromptEncoders) -> tuple[str, ...]:
    """Start the encoders of a diagnosis model from aligned ones, and say of which modalities: those that both
    have. Raises Refusal where they have none in common, read it otherwise, or differ in size."""
    names = tuple(name for name in encoders.encoders if name in aligned.names)
    if not names:
        raise Refusal(
            f"the aligned encoders read {', '.join(aligned.names)}, expected one of "
            f"{', '.join(encoders.encoders)}"
        )
    for name in names:
        weights = aligned.encoders.encoders[name].state_dict()
        try:
            load_weights(encoders.encoders[name], weights, Path(name))
        except CheckpointError as error:
            raise Refusal(
                f"modality {error}; expected aligned encoders of the sizes of this model"
            ) from error
    return names
