"""The command line: cohort, train, evaluate, predict, explain, info, demo.

Bad input ends with exit code 2 and one sentence; Ctrl-C in training with 130 and a checkpoint.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.pairs import models, pairs
from robustmdiff.cli.show import show, show_predictions, transposed
from robustmdiff.refusal import Refusal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: its columns survive 80 characters
    help="Diagnosis from images, text and values of patients of whom anything may be missing.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `robustmdiff train` wrote.")]
Patients = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FOLDER", help="Patients of yours (docs/data.md); else the run's test patients."
    ),
]


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


@app.command(short_help="Draw and describe patients of the built-in cohort.")
def cohort(
    patients: Annotated[int, typer.Option(min=1, help="How many patients to draw.")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other patients.")] = 0,
    missingness: Annotated[
        str,
        typer.Option(help="none; mcar: at random; mar: by site and age; mnar: by severity."),
    ] = "none",
    rate: Annotated[float, typer.Option(help="Share of modalities missing, 0 to below 1.")] = 0.0,
    check: Annotated[
        bool, typer.Option("--check", help="Also measure how well findings can be read off the data.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draw patients of the built-in cohort, render them into the cache, and describe them.

    \b
    Example:
      robustmdiff cohort --patients 500 --missingness mcar --rate 0.3
    """
    from robustmdiff.data.cohort import CohortConfig, make_cohort
    from robustmdiff.data.cohort.reader import reader_check

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
        result["readers"] = reader_check(made)
    show(result, as_json, tables={"Diseases": rows, "Modalities": present})


@app.command(short_help="Train a model, calibrate it, save everything.")
def train(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the run goes: a new folder, unless --resume.")
    ],
    data: Annotated[Data, typer.Option(help="Where the patients come from.")] = Data.cohort,
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the data lie; none for the cohort.")
    ] = None,
    model: Annotated[Model, typer.Option(help="What to train.")] = Model.robustmdiff,
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
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the data: seed=1, image_size=128, train=2000."),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=MODEL", help="Read a modality with a transformers model: text=FOLDER or a name."
        ),
    ] = None,
    ontology: Annotated[
        str, typer.Option(help="Of the concepts: icd10cm, an OBO file, or a folder of tables.")
    ] = "icd10cm",
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-validate by person, every baseline too; 0: one split.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times that --folds divides the people anew.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where a run stopped; else the same command.")
    ] = False,
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
    from robustmdiff.experiment.cross_validation import cross_validate
    from robustmdiff.experiment.run import train_with_baselines
    from robustmdiff.experiment.studies import Source, load_study
    from robustmdiff.training.config import load_config, make_config

    overrides = pairs(set_, "--set")
    settings = load_config(config, **overrides) if config else make_config(overrides, "--set")
    options, encoders = pairs(option, "--option"), models(encoder)
    source = Source(data.value, str(root.resolve()) if root else None, ontology, options, encoders)
    if folds:
        if model is not Model.robustmdiff:
            raise Refusal(f"--model is {model.value}, expected none with --folds: it trains every model")
        made = cross_validate(source, settings, out, folds=folds, repeats=repeats, resume=resume)
        rows = [{"model": "all", "folder": str(place)} for place in made]
        show({"runs": rows}, as_json, tables={"Trained": rows})
        return
    study = load_study(source)
    runs = train_with_baselines(study, settings, out, kind=model.value, baselines=baselines, resume=resume)
    rows = [{"model": name, "folder": str(run.folder)} for name, run in runs.items()]
    show({"runs": rows}, as_json, tables={"Trained": rows})


@app.command(short_help="Take modalities away and measure what is left.")
def evaluate(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where tables and plots go; else RUN/evaluation."),
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Posterior samples per diagnosis.")] = 16,
    replicates: Annotated[int, typer.Option(min=10, help="Bootstrap resamples of patients.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks and the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Take modalities away and measure what is left, beside the baselines trained with the run.

    \b
    Example:
      robustmdiff evaluate runs/cohort
    """
    from robustmdiff.evaluation.report import headline, write_report
    from robustmdiff.experiment.cross_validation import FOLDS, evaluate_folds
    from robustmdiff.experiment.run import evaluate_run

    measure = evaluate_folds if (run / FOLDS).exists() else evaluate_run
    results = measure(run, draws=draws, replicates=replicates, seed=seed)
    folder = out or run / "evaluation"
    write_report(results, folder)
    rows = headline(results)
    show(
        {"folder": str(folder), "headline": rows}, as_json, tables={f"Written to {folder}": transposed(rows)}
    )


@app.command(short_help="Diagnose patients: probabilities and prediction sets.")
def predict(
    run: RunFolder,
    data: Patients = None,
    patient: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this patient; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV, one row a patient and class.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Posterior samples per diagnosis.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Diagnose patients: the probability of each class, its interval, and the set of classes that
    holds the right one in 9 of 10 patients.

    \b
    Example:
      robustmdiff predict runs/mine --data my_patients --out predictions.csv
    """
    from robustmdiff.cli.predict import predict_run, write_predictions

    rows = predict_run(run, data=data, ids=patient, draws=draws, seed=seed)
    if out is not None:
        write_predictions(rows, out)
    if as_json:
        show({"predictions": rows}, as_json)
    elif out is not None:
        print(f"wrote {out}, {len(rows)} rows")
    else:
        show_predictions(rows)


@app.command(short_help="One page on one patient: what is likely, and why.")
def explain(
    run: RunFolder,
    patient: Annotated[
        str | None, typer.Option(metavar="ID", help="The patient; else the first test patient.")
    ] = None,
    data: Patients = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY", help="Pretend that it is missing; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The HTML page; else RUN/patients/ID.html.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Posterior samples per diagnosis.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """One page on one patient: what is likely, why, and which test to order next.

    \b
    Example:
      robustmdiff explain runs/mine --data my_patients --patient p1 --hide notes
    """
    from robustmdiff.cli.predict import explain_run

    explanation, page = explain_run(
        run, id=patient, data=data, hide=hide or [], out=out, draws=draws, seed=seed
    )
    if as_json:
        print(json.dumps({**explanation.to_json(), "page": str(page)}))
    else:
        print(f"wrote {page}")


@app.command(short_help="What is installed here, or what a run holds.")
def info(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run to describe; else the installation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is installed and which backends can run here, or what a run holds.

    \b
    Example:
      robustmdiff info runs/mine
    """
    from robustmdiff.cli.describe import describe_installation, describe_run

    described = describe_run(run) if run else describe_installation()
    show(described, as_json)


@app.command(short_help="All of it on built-in patients, in about six minutes.")
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes: a new folder.")] = Path(
        "runs/demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and explain on 1,500 built-in patients: about six minutes on two cores.

    \b
    Example:
      robustmdiff demo --out runs/demo
    """
    from robustmdiff.cli.demo import run_demo

    summary = run_demo(out)
    show(summary, as_json, tables={"A rough model, in minutes": transposed(summary["headline"])})


def main() -> None:
    """The `robustmdiff` command. A `Refusal`, or a file that is not there or cannot be written, is one
    sentence and exit code 2 (RMD_TRACEBACK=1 shows where it was found); any other error is a bug of ours,
    and shows itself."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows a patient's name as \uXXXX
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app(standalone_mode=True)
    except (Refusal, OSError, UnicodeEncodeError) as error:
        said = _sentences(error)
        if os.environ.get("RMD_TRACEBACK") or not said:
            raise
        for sentence in said:
            print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
        sys.exit(2)


def _sentences(error: Exception) -> list[str]:
    """What is to be said of the error; nothing where it is none of the user's."""
    if isinstance(error, Refusal):
        return [str(sentence) for sentence in error.args]
    if isinstance(error, OSError) and error.filename is not None:
        return [f"{error.filename}: {error.strerror}"]
    if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":  # of a file name
        where = f"cannot be named here, where names are {error.encoding}"
        return [f"{error.object}: {where}, expected a machine set to UTF-8 (PYTHONUTF8=1)"]
    return []


if __name__ == "__main__":
    main()
