"""A generator on disk, a folder with everything it needs.

model.json                      task, what can be generated, frames
model.safetensors               flows, details, translations
prompts/                        the aligned encoders (`alignment.pretrained`)
gists/NAME/, grids/NAME/        latents (`generation.latents.saved`)
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from robustmdiff.alignment.pretrained import load_prompts, save_prompts
from robustmdiff.data.task_file import task_from
from robustmdiff.generation.latents.saved import load_latent, save_latent
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import load_weights
from robustmdiff.whole import write_whole

FORMAT, KIND = 1, "generator"
OWN = ("flows.", "details.", "translations.")  # what of the weights no folder beside holds
ELSEWHERE = (".gist.", ".grid.", ".latents.")


def save_generator(model: MedM2G, folder: str | Path) -> None:
    """Write the folder; each file appears whole or not at all, the weights last."""
    from safetensors.torch import save

    folder = Path(folder)
    save_prompts(model.prompts, folder / "prompts", model.tokenizer)
    for name in model.gists:
        save_latent(model.gist(name), folder / "gists" / name)
    for name in model.grids:
        save_latent(model.detail(name).grid, folder / "grids" / name)
    plain = {
        "format": FORMAT,
        "kind": KIND,
        "task": model.task.to_json(),
        "gists": list(model.gists),
        "grids": list(model.grids),
        "frames": model.frames,
        "process": model.flows.process.name,
    }
    write_whole(folder / "model.json", json.dumps(plain, indent=1).encode())
    state = {n: v.detach().cpu().contiguous() for n, v in model.state_dict().items() if _is_own(n)}
    write_whole(folder / "model.safetensors", save(state, {"format": "pt"}))


def load_generator(folder: str | Path) -> MedM2G:
    """The generator of a folder, in evaluation mode. Raises Refusal for a folder that `save_generator` did
    not write, or that was damaged since."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    where, weights = folder / "model.json", folder / "model.safetensors"
    try:
        plain = json.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"{where}: no generator there ({os.strerror(error.errno or 0)})") from error
    except ValueError as error:
        raise Refusal(f"{where}: is not JSON ({error}), expected a generator's") from error
    if (plain.get("format"), plain.get("kind")) != (FORMAT, KIND):
        held = f"{plain.get('kind')!r}, format {plain.get('format')}"
        raise Refusal(f"{where}: is of kind {held}, expected {KIND!r}, {FORMAT}")
    prompts, tokenizer = load_prompts(folder / "prompts")
    gists: dict[str, Any] = {name: load_latent(folder / "gists" / name) for name in plain["gists"]}
    grids: dict[str, Any] = {name: load_latent(folder / "grids" / name) for name in plain["grids"]}
    task = task_from(plain["task"], str(where))
    process = plain.get("process", "straight")
    model = MedM2G(task, prompts, gists, grids, plain["frames"], tokenizer, process)
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise Refusal(f"{weights}: cannot be read ({error}), expected whole weights") from error
    load_weights(model, {n: v for n, v in model.state_dict().items() if not _is_own(n)} | state, weights)
    return model.eval()


def _is_own(name: str) -> bool:
    """Whether a weight of this name lies here, and not in a folder beside."""
    return name.startswith(OWN) and not any(part in name for part in ELSEWHERE)


def digest(folder: str | Path) -> str:
    """SHA-256 of the files of a generator that decide what it makes."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()
