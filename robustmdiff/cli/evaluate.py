"""`robustmdiff evaluate`: a run under the missing-modality protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, Device, Draws, SkipBad
from robustmdiff.cli.show import left_out, show, transposed
from robustmdiff.refusal import Refusal


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="A folder that `robustmdiff train` wrote; of several seeds, all of them."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Measure it on patients of yours (docs/data.md); else on its own."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the data lie, if --data names their format: chestxray."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where tables and plots go; else RUN/evaluation."),
    ] = None,
    physician: Annotated[
        bool,
        typer.Option(
            "--physician", help="Only those whose physician stated an estimate, with it beside the models."
        ),
    ] = False,
    draws: Draws = None,
    replicates: Annotated[int, typer.Option(min=10, help="Bootstrap resamples of patients.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks and the draws.")] = 0,
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Take modalities away and measure what is left, beside the baselines trained with the run.

    With --data on patients that the run has never seen, matched by the names of classes, fields and
    units; what took part in training is left out, and told. Several runs, which differ in their seed, are
    averaged; their intervals hold patients and seeds.

    \b
    Examples:
      robustmdiff evaluate runs/cohort
      robustmdiff evaluate runs/mine --data their_patients
      robustmdiff evaluate runs/support2 --physician
      robustmdiff evaluate runs/seed0 runs/seed1 runs/seed2 --out runs/seeds
    """
    from robustmdiff.data.bad_rows import BadRows
    from robustmdiff.evaluation.pooling import over_seeds
    from robustmdiff.evaluation.report import headline, write_report
    from robustmdiff.experiment.cross_validation import evaluate_folds
    from robustmdiff.experiment.evaluate import evaluate_run
    from robustmdiff.experiment.other_patients import named_source, unseen_study
    from robustmdiff.experiment.run import FOLDS, load_run

    run, several = runs[0], len(runs) > 1
    folds, bad = (run / FOLDS).exists(), BadRows(skip_bad)
    if several and data is not None:
        raise Refusal(f"--data is {data!r}, expected none with {len(runs)} runs")
    if several and out is None:
        raise Refusal(f"--out is not given, expected a folder for the mean of {len(runs)} runs")
    if root is not None and data is None:
        raise Refusal(f"--root is {str(root)!r}, expected none without --data")
    if folds and data is not None:
        raise Refusal(f"{run}: holds the folds of a cross-validation, expected with --data one run of them")
    options: dict[str, Any] = {"draws": draws, "replicates": replicates, "seed": seed, "device": device}
    options["physician"] = physician
    if several:
        results = over_seeds([evaluate_run(each, **options) for each in runs])
    elif folds:
        results = evaluate_folds(run, **options)
    elif data is None:
        results = evaluate_run(run, **options)
    else:
        source = named_source(data, root, skip_bad)
        trained = load_run(run, device)
        study = unseen_study(trained, source, bad)
        results = evaluate_run(trained, study=study, **options)
        unseen = f"{len(study.patients['test'])} records of {source.root}, of people the run has never seen."
        results.notes = (unseen, *results.notes)
    name = "evaluation" if data is None else f"evaluation-{Path(root or data).resolve().name}"
    folder = out or run / (f"{name}-physician" if physician else name)
    write_report(results, folder)
    rows = headline(results)
    show(
        {"folder": str(folder), "headline": rows} | left_out(bad),
        as_json,
        tables={f"Written to {folder}": transposed(rows)},
    )
