"""`robustmdiff train`: a run, and the baselines beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, SkipBad
from robustmdiff.cli.pairs import models, pairs
from robustmdiff.cli.show import left_out, show
from robustmdiff.data.sources import SOURCES
from robustmdiff.models import BASELINES, BY_NAME
from robustmdiff.refusal import Refusal

OURS = BY_NAME[0]


def train(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the run goes: a new folder, unless --resume.")
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help=f"Where the patients come from: {', '.join(['cohort', *SOURCES])}."
        ),
    ] = "cohort",
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the data lie; none for the cohort.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="MODEL", help=f"What to train: {', '.join(BY_NAME)}.")] = OURS,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Train every baseline too, with the same budget.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of hyper-parameters, as a run's config.yaml.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One hyper-parameter: epochs=10, model.d_h=128."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the weights, the order of patients and the noise; as --set seed=N."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An option of the data: seed=1, image_size=128, test_sites=A,B."
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=MODEL",
            help="Read a modality with a transformers model (text=FOLDER or a name) or package.module:Class.",
        ),
    ] = None,
    ontology: Annotated[
        str, typer.Option(help="Of the concepts: icd10cm, an OBO file, or a folder of tables.")
    ] = "icd10cm",
    aligned: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Start from aligned encoders, such as aligned/links/ct-mri/model."
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-validate by person, every baseline too; 0: one split.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times that --folds divides the people anew.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1; a GPU if there is one, else the CPU."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where a run stopped; else the same command.")
    ] = False,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Train a model, calibrate it on patients it has not seen, and save everything.

    Ctrl-C saves first. What may be --set stands in the config.yaml of every run.

    \b
    Examples:
      robustmdiff train --out runs/cohort --option train=2000 --baselines
      robustmdiff train --data covid --root data/chestxray --out runs/covid
      robustmdiff train --data folder --root my_patients --out runs/mine
    """
    from robustmdiff.data.bad_rows import BadRows
    from robustmdiff.experiment.cross_validation import cross_validate
    from robustmdiff.experiment.fit import train_with_baselines
    from robustmdiff.experiment.source import Source
    from robustmdiff.experiment.studies import load_study
    from robustmdiff.training.config import load_config, make_config

    if model not in BY_NAME:
        raise Refusal(f"--model is {model!r}, expected one of {', '.join(BY_NAME)}")
    overrides = pairs(set_, "--set") | ({} if seed is None else {"seed": seed})
    settings = load_config(config, **overrides) if config else make_config(overrides, "--set")
    options, encoders = pairs(option, "--option"), models(encoder)
    place = str(root.resolve()) if root else None
    source = Source(data, place, ontology, options, encoders, skip_bad)
    bad = BadRows(skip_bad)
    how: dict[str, Any] = {"resume": resume, "device": device}
    if folds:
        if model != OURS:
            raise Refusal(f"--model is {model}, expected none with --folds: it trains every model")
        if aligned is not None:
            raise Refusal(f"--aligned is {aligned}, expected none with --folds: they have met every fold")
        made = cross_validate(source, settings, out, folds=folds, repeats=repeats, bad=bad, **how)
        rows = [{"model": "all", "folder": str(place)} for place in made]
    else:
        study = load_study(source, bad=bad)
        others = BASELINES if baselines else ()
        runs = train_with_baselines(
            study, settings, out, kind=model, baselines=others, aligned=aligned, **how
        )
        rows = [{"model": name, "folder": str(run.folder)} for name, run in runs.items()]
    show({"runs": rows} | left_out(bad), as_json, tables={"Trained": rows})
