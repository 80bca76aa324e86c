"""`robustmdiff generate`, `translate` and `complete`: what a patient's missing modalities might look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, Device
from robustmdiff.cli.show import show

if TYPE_CHECKING:
    from robustmdiff.data.patient import Patient
    from robustmdiff.generation.medm2g import Made, MedM2G

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder that `robustmdiff generator train` wrote.")
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="WHAT",
        help="What is there: modality=text, modality=FILE, or a JSON file of several; may be repeated.",
    ),
]
To = Annotated[str, typer.Option(metavar="MODALITIES", help="What to make, between commas.")]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")]
Draws = Annotated[int, typer.Option(min=1, help="Of each, as the model's uncertainty has them.")]
Steps = Annotated[int, typer.Option(min=1, help="Of the sampler.")]
Sampler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="euler or heun of flows; ddim, ddpm or dpmpp_2m of diffusions."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise.")]
Format = Annotated[str, typer.Option(metavar="FORMATS", help="Of images, between commas: png, nii, dcm.")]
Guidance = Annotated[
    float, typer.Option(min=0, help="How strongly prompts are followed: 0 not at all, 1 as learned.")
]
Votes = Annotated[
    int, typer.Option(min=1, help="A text is what so many draws of it say on average; 1: an honest draw.")
]


def generate(
    run: RunFolder,
    to: To,
    given: Given = None,
    out: Out = Path("generated"),
    draws: Draws = 1,
    guidance: Guidance = 1.0,
    steps: Steps = 8,
    sampler: Sampler = None,
    votes: Votes = 1,
    seed: Seed = 0,
    format: Format = "png",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Make images and texts of any modalities from any others, or from nothing.

    \b
    Examples:
      robustmdiff generate runs/g --from text="cardiomegaly" --to xray --draws 4
      robustmdiff generate runs/g --from patient.json --to ct,text --format dcm
    """
    model = _load(run, device)
    patient = _patient(model, given)
    how: dict[str, Any] = {"draws": draws, "guidance": guidance, "steps": steps, "votes": votes, "seed": seed}
    if sampler is not None:
        how["sampler"] = sampler
    made = model.generate([patient], names(to), **how)[0]
    _write(run, model, made, out, format, given, how, as_json)


def translate(
    run: RunFolder,
    to: To,
    given: Given = None,
    out: Out = Path("generated"),
    draws: Draws = 1,
    steps: Steps = 8,
    seed: Seed = 0,
    format: Format = "png",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Make an image from images of the same frame: a missing contrast of MRI, MRI from CT.

    \b
    Example:
      robustmdiff translate runs/lgg --from flair=flair.nii.gz --to post_contrast
    """
    model = _load(run, device)
    patient = _patient(model, given)
    how: dict[str, Any] = {"draws": draws, "steps": steps, "seed": seed}
    model.check_sources(patient, names(to))
    made = model.generate([patient], names(to), **how)[0]
    _write(run, model, made, out, format, given, how, as_json)


def complete(
    run: RunFolder,
    given: Given = None,
    out: Out = Path("generated"),
    draws: Draws = 1,
    guidance: Guidance = 1.0,
    steps: Steps = 8,
    seed: Seed = 0,
    format: Format = "png",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Make whatever a patient lacks.

    \b
    Example:
      robustmdiff complete runs/generator --from patient.json
    """
    model = _load(run, device)
    how: dict[str, Any] = {"draws": draws, "guidance": guidance, "steps": steps, "seed": seed}
    made = model.complete(_patient(model, given), **how)
    _write(run, model, made, out, format, given, how, as_json)


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _load(run: Path, device: str) -> MedM2G:
    from robustmdiff.experiment.run import usable
    from robustmdiff.generation.pretrained import load_generator

    return load_generator(run / "model").to(usable(device))


def _patient(model: MedM2G, given: Sequence[str] | None) -> Patient:
    from robustmdiff.data.given import read_given

    return read_given(model.task, given or [])


def _write(
    run: Path,
    model: MedM2G,
    made: Made,
    out: Path,
    format: str,
    given: Sequence[str] | None,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    from robustmdiff import __version__
    from robustmdiff.generation.pretrained import digest
    from robustmdiff.generation.written import write_made

    provenance = {
        "model": type(model).__name__,
        "version": __version__,
        "model_sha256": digest(run / "model"),
        "from": list(given or []),
        **how,
    }
    written = write_made(made, model.task, out, names(format), provenance)
    texts = {name: [d for d in drawn if isinstance(d, str)] for name, drawn in made.made.items()}
    result = {
        "synthetic": True,
        "given": list(made.given),
        "how": dict(made.how),
        "texts": {name: found for name, found in texts.items() if found},
        "files": [str(path) for path in written],
    }
    show(result, as_json)
