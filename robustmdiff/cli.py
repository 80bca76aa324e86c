"""The command line: cohort, train, evaluate, predict, explain, info, demo.

Bad input ends with exit code 2 and one sentence; Ctrl-C in training with 130 and a checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Diagnosis from images, text and values of patients of whom anything may be missing.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder that `robustmdiff train` wrote.")]


class Data(StrEnum):
    cohort = "cohort"
    chestxray = "chestxray"
    covid = "covid"
    hannover = "hannover"
    folder = "folder"


class Model(StrEnum):
    robustmdiff = "robustmdiff"
    late_fusion = "late_fusion"
    dropout_transformer = "dropout_transformer"
    mask_only = "mask_only"


@app.command()
def cohort(
    patients: Annotated[int, typer.Option(min=1, help="How many patients to draw.")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other patients.")] = 0,
    missingness: Annotated[str, typer.Option(help="none, mcar, mar or mnar.")] = "none",
    rate: Annotated[float, typer.Option(help="Share of modalities missing.")] = 0.0,
    check: Annotated[bool, typer.Option(help="Also measure how well readings can be read back.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw patients of the built-in cohort, render them into the cache, and describe them.

    Example: robustmdiff cohort --patients 500 --missingness mcar --rate 0.3
    """
    from robustmdiff.data.cohort import CohortConfig, make_cohort

    made = make_cohort(CohortConfig(patients=patients, seed=seed, missingness=missingness, rate=rate))
    found = list(made.patients)
    rows = [
        {
            "class": name,
            "prevalence": round(prevalence, 4),
            "patients": sum(bool(patient.labels.get(name)) for patient in found),
            "rare": name in made.task.rare,
        }
        for name, prevalence in zip(made.task.classes, made.task.prevalence, strict=True)
    ]
    present = [
        {"modality": m.name, "kind": m.kind, "present": sum(patient.has(m.name) for patient in found)}
        for m in made.task.modalities
    ]
    result: dict[str, Any] = {"patients": len(found), "classes": rows, "modalities": present}
    if check:
        result["readers"] = made.reader_check()
    _show(result, as_json, tables={"Diseases": rows, "Modalities": present})


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; must be new, or --resume.")],
    data: Annotated[Data, typer.Option(help="Where the patients come from.")] = Data.cohort,
    root: Annotated[Path | None, typer.Option(help="Folder of the data; not for the cohort.")] = None,
    model: Annotated[Model, typer.Option(help="What to train.")] = Model.robustmdiff,
    baselines: Annotated[bool, typer.Option(help="Train every baseline too, with the same budget.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML of hyper-parameters.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One of them: --set epochs=10")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the data: --option train=2000")
    ] = None,
    ontology: Annotated[str, typer.Option(help="icd10cm, an OBO file, or a folder of tables.")] = "icd10cm",
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-validate by person, every baseline too; 0: one split.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times that --folds divides the people anew.")] = 1,
    resume: Annotated[bool, typer.Option(help="Go on exactly where a run stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model, calibrate it on patients it has not seen, and save everything.

    Example: robustmdiff train --data covid --root data/chestxray --out runs/covid --baselines
    """
    from robustmdiff.experiment.cross_validation import cross_validate
    from robustmdiff.experiment.run import train_with_baselines
    from robustmdiff.experiment.studies import Source, load_study
    from robustmdiff.training.config import load_config, make_config

    overrides = _pairs(set_, "--set")
    settings = load_config(config, **overrides) if config else make_config(overrides, "--set")
    source = Source(data.value, str(root.resolve()) if root else None, ontology, _pairs(option, "--option"))
    if folds:
        if model is not Model.robustmdiff:
            raise ValueError(f"--model is {model.value}, expected none with --folds: it trains every model")
        made = cross_validate(source, settings, out, folds=folds, repeats=repeats, resume=resume)
        rows = [{"model": "all", "folder": str(place)} for place in made]
        _show({"runs": rows}, as_json, tables={"Trained": rows})
        return
    study = load_study(source)
    runs = train_with_baselines(study, settings, out, kind=model.value, baselines=baselines, resume=resume)
    rows = [{"model": name, "folder": str(run.folder)} for name, run in runs.items()]
    _show({"runs": rows}, as_json, tables={"Trained": rows})


@app.command()
def evaluate(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Where tables and plots go; RUN/evaluation.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Posterior samples per diagnosis.")] = 16,
    replicates: Annotated[int, typer.Option(min=10, help="Bootstrap resamples of patients.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks and the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Take modalities away and measure what is left, beside the baselines trained with the run.

    Example: robustmdiff evaluate runs/covid
    """
    from robustmdiff.evaluation.report import headline, write_report
    from robustmdiff.experiment.cross_validation import FOLDS, evaluate_folds
    from robustmdiff.experiment.run import evaluate_run

    measure = evaluate_folds if (run / FOLDS).exists() else evaluate_run
    results = measure(run, draws=draws, replicates=replicates, seed=seed)
    folder = out or run / "evaluation"
    write_report(results, folder)
    rows = headline(results)
    _show({"folder": str(folder), "headline": rows}, as_json, tables={f"Written to {folder}": rows})


@app.command()
def predict(
    run: RunFolder,
    data: Annotated[Path | None, typer.Option(help="A folder of patients; else the run's test.")] = None,
    patient: Annotated[list[str] | None, typer.Option(help="Only these patients.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a CSV.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Posterior samples per diagnosis.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Probabilities, intervals and prediction sets, one row a patient and class.

    Example: robustmdiff predict runs/covid --data my_patients --out predictions.csv
    """
    from robustmdiff.experiment.predict import predict_run, write_predictions

    rows = predict_run(run, data=data, ids=patient, draws=draws, seed=seed)
    if out is not None:
        write_predictions(rows, out)
    shown = [row for row in rows if row["in_set"]]
    _show({"predictions": rows}, as_json, tables={"Prediction sets": shown})


@app.command()
def explain(
    run: RunFolder,
    patient: Annotated[str | None, typer.Option(help="A patient's id; else the first test patient.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder of patients to find them in.")] = None,
    hide: Annotated[list[str] | None, typer.Option(help="Pretend that this modality is missing.")] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML page; RUN/patients/ID.html.")] = None,
    draws: Annotated[int, typer.Option(min=2, help="Posterior samples per diagnosis.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """One page on one patient: what is likely, why, and which test to order next.

    Example: robustmdiff explain runs/covid --patient 23 --hide text
    """
    from robustmdiff.experiment.predict import explain_run

    explanation, page = explain_run(
        run, id=patient, data=data, hide=hide or [], out=out, draws=draws, seed=seed
    )
    if as_json:
        print(json.dumps(explanation.to_json()))
    else:
        print(f"wrote {page}")


@app.command()
def info(
    run: Annotated[Path | None, typer.Argument(help="A run to describe; else the installation.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is installed and which backends can run here, or what a run holds."""
    from robustmdiff.experiment.describe import describe_installation, describe_run

    described = describe_run(run) if run else describe_installation()
    _show(described, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demonstration.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and explain on 1,500 built-in patients: about six minutes on two cores."""
    from robustmdiff.experiment.demo import run_demo

    summary = run_demo(out)
    _show(summary, as_json, tables={"A rough model, in minutes": summary["headline"]})


def _pairs(given: list[str] | None, flag: str) -> dict[str, Any]:
    """--set a=1 --set model.draws=32 -> {"a": 1, "model": {"draws": 32}}; values are YAML."""
    import yaml

    pairs: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{flag} is {text!r}, expected name=value")
        *parents, last = name.split(".")
        place = pairs
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(value)
    return pairs


def _show(
    result: dict[str, Any], as_json: bool, tables: dict[str, list[dict[str, Any]]] | None = None
) -> None:
    """JSON on standard output, or the tables; without tables, name and value line by line."""
    if as_json:
        print(json.dumps(result, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if tables is None:
        rows = [{"": name, "value": value} for name, value in result.items()]
        tables = {"": rows}
    for title, rows in tables.items():
        table = Table(title=title or None, title_justify="left")
        for column in rows[0] if rows else []:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """The `robustmdiff` command. Bad input (a ValueError of ours or a file that is not there or cannot
    be written) is one sentence and exit code 2; RMD_TRACEBACK=1 shows where it was found."""
    from robustmdiff.training.checkpoint import CheckpointError

    try:
        app(standalone_mode=True)
    except (ValueError, OSError, CheckpointError) as error:
        if os.environ.get("RMD_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
