"""A latent space on disk: a folder with what it is and what was measured.

latent.json         class and options
latent.safetensors  what was measured and learned
"""

from __future__ import annotations

import json
from pathlib import Path

from robustmdiff.generation.latents.autoencoder import PatchAutoencoder
from robustmdiff.generation.latents.dct import BlockDCT
from robustmdiff.generation.latents.latent import Latent
from robustmdiff.generation.latents.pretrained import PretrainedAutoencoder
from robustmdiff.generation.latents.principal import PrincipalComponents
from robustmdiff.generation.latents.text import TextLatent
from robustmdiff.refusal import Refusal
from robustmdiff.training.checkpoint import load_weights
from robustmdiff.whole import write_whole

FORMAT = 1
KINDS = BlockDCT, PatchAutoencoder, PretrainedAutoencoder, PrincipalComponents, TextLatent
LATENTS: dict[str, type[Latent]] = {kind.__name__: kind for kind in KINDS}


def save_latent(latent: Latent, folder: Path | str) -> None:
    """Writes the two files, each of which appears whole or not at all; the numbers come last."""
    from safetensors.torch import save

    folder = Path(folder)
    description = {"format": FORMAT, "latent": type(latent).__name__, "options": latent.options}
    state = {name: value.detach().cpu().contiguous() for name, value in latent.state_dict().items()}
    write_whole(folder / "latent.json", json.dumps(description, indent=1, ensure_ascii=False).encode())
    write_whole(folder / "latent.safetensors", save(state, {"format": "pt"}))


def load_latent(folder: Path | str) -> Latent:
    """The latent of a folder, in evaluation mode; Refusal that names the file where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, numbers = Path(folder) / "latent.json", Path(folder) / "latent.safetensors"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"{path}: cannot be read ({error}), expected what save_latent wrote") from error
    name = description.get("latent")
    if description.get("format") != FORMAT or name not in LATENTS:
        raise Refusal(
            f"{path}: is {name!r} in format {description.get('format')}, expected one of "
            f"{', '.join(LATENTS)} in format {FORMAT}"
        )
    try:
        state = load_file(numbers)
    except (OSError, SafetensorError) as error:
        raise Refusal(f"{numbers}: cannot be read ({error}), expected what save_latent wrote") from error
    latent = LATENTS[name](**description["options"])
    load_weights(latent, state, numbers)
    return latent.eval()
