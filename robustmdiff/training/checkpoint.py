"""Checkpoints: one safetensors file each, replaced atomically, checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustmdiff.refusal import Refusal
from robustmdiff.training.config import LoopConfig, plain_config, read_config
from robustmdiff.whole import write_whole

FORMAT = 1
KEY = "robustmdiff"
LAST, BEST = "last.safetensors", "best.safetensors"


class CheckpointError(Refusal):
    """A checkpoint that cannot be written, read, or used here; the message names file and reason."""


@dataclass(frozen=True)
class Checkpoint:
    """step     optimiser steps done
    weights  of the whole model by name, averaged ones (EMA) where there are any: for use
    metrics  of the validation at that step, where there was one
    state    all that is no tensor, in JSON's types: "config", what the run said of its data, ...
    tensors  all there are, for resuming"""

    path: Path
    step: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replaces `path` in one step and waits for the disk: at every moment it is either the previous
    checkpoint or the new one. Raises CheckpointError and leaves the previous one."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():  # tied weights are written twice: the format has no aliases
        tensor = tensor.detach().cpu().contiguous()
        own[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    try:
        write_whole(path, save(own, metadata={KEY: json.dumps({"format": FORMAT, **state})}), sync=True)
    except OSError as e:
        kept = "the previous one there is intact" if path.exists() else "there is none yet"
        raise CheckpointError(f"cannot write the checkpoint {path}: {e.strerror}; {kept}") from e


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint file, or of a run's folder the best one (the last if none was best)."""
    path = Path(path)
    if path.is_dir():
        path = path / BEST if (path / BEST).exists() else path / LAST
    if not path.exists():
        raise CheckpointError(f"{path}: there is no checkpoint here, expected {BEST} or {LAST}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path}: is truncated or no checkpoint ({e}), expected safetensors") from e
    if KEY not in metadata:
        raise CheckpointError(f"{path}: was not written by robustmdiff, expected its metadata {KEY!r}")
    state = json.loads(metadata[KEY])
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path}: has format {state['format']}, expected {FORMAT}")
    weights = {
        name.removeprefix("model."): tensors.get("ema." + name.removeprefix("model."), tensor)
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }
    return Checkpoint(
        path=path,
        step=state["step"],
        metrics=state["metrics"],
        weights=weights,
        state=state,
        tensors=tensors,
    )


def check_same_run(checkpoint: Checkpoint, config: LoopConfig, data: Mapping[str, Any]) -> None:
    """CheckpointError that names what differs between a checkpoint and the run that would resume it; data
    is what the run says of its data, in JSON's types."""
    state, path = checkpoint.state, checkpoint.path
    for key, ours in data.items():
        if state[key] != ours:
            raise CheckpointError(f"{path}: is of other data: {_difference(key, state[key], ours)}")
    theirs, own = plain_config(read_config(type(config), state["config"], str(path))), plain_config(config)
    for key in own:
        if key not in config.free and theirs[key] != own[key]:
            raise CheckpointError(
                f"{path}: is from another config: {_difference(key, theirs[key], own[key])}; "
                "resume with its own config.yaml, or train into another folder"
            )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """load_state_dict whose error says in one sentence which weight does not fit."""
    own = model.state_dict()
    for name in sorted(set(own) | set(weights)):
        if name not in weights:
            raise CheckpointError(f"{path}: has no weight {name!r}, which {type(model).__name__} expects")
        if name not in own:
            raise CheckpointError(f"{path}: has a weight {name!r}, unknown to {type(model).__name__}")
        one = own[name].numel() == weights[name].numel() == 1  # a number is [] or, for FSDP, [1]
        if own[name].shape != weights[name].shape and not one:
            raise CheckpointError(
                f"{path}: weight {name!r} is {list(weights[name].shape)}, {type(model).__name__} "
                f"expects {list(own[name].shape)}"
            )
    model.load_state_dict({name: weight.reshape(own[name].shape) for name, weight in weights.items()})


def _difference(key: str, theirs: Any, ours: Any) -> str:
    """The first place where two plain values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for inner in sorted(set(theirs) | set(ours)):
            if theirs.get(inner) != ours.get(inner):
                return _difference(f"{key}.{inner}", theirs.get(inner), ours.get(inner))
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            if a != b:
                return _difference(f"{key}[{i}]", a, b)
    return f"{key} is {_names(theirs)} in the checkpoint and {_names(ours)} now"


def _names(value: Any) -> Any:
    """A list of named things is best told by the names."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
        return [v["name"] for v in value]
    return value
