"""The command line: one file a command, put together here.

Bad input ends with exit code 2 and one sentence; Ctrl-C in training with 130 and a checkpoint.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from robustmdiff.cli import (
    benchmark,
    cohort,
    data,
    demo,
    evaluate,
    explain,
    export,
    generate,
    generator,
    info,
    predict,
    report,
    serve,
    train,
    verify,
)
from robustmdiff.refusal import Refusal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: its columns survive 80 characters
)
app.command(short_help="Draw and describe patients of the built-in cohort.")(cohort.cohort)
app.command(short_help="Train a model, calibrate it, save everything.")(train.train)
app.command(short_help="Take modalities away and measure what is left.")(evaluate.evaluate)
app.command(short_help="Diagnose patients: probabilities and prediction sets.")(predict.predict)
app.command(short_help="One page on one patient: what is likely, and why.")(explain.explain)
app.command(short_help="The model as one file, for where there is no torch.")(export.export)
app.command(short_help="Whether an exported folder is as it was signed.")(verify.verify)
app.command(short_help="An exported model behind HTTP, for one machine.")(serve.serve)
app.command(short_help="DICOM or FHIR in, a DICOM SR or a FHIR report out.")(report.report)
app.command(short_help="Every form of a run side by side.")(benchmark.benchmark)
app.command(short_help="What is installed here, or what a run holds.")(info.info)
app.command(short_help="All of it on built-in patients, in about five minutes.")(demo.demo)
app.command(short_help="Images and texts of any modalities from any others.")(generate.generate)
app.command(short_help="An image from others of its frame.")(generate.translate)
app.command(short_help="Whatever a patient lacks.")(generate.complete)
app.add_typer(generator.app, name="generator", short_help="Train what generates, and measure it.")
app.add_typer(data.app, name="data", short_help="Read patients of yours and count what is there.")


def _version(asked: bool) -> None:
    if asked:
        from robustmdiff import __version__

        print(f"robustmdiff {__version__}")
        raise typer.Exit


@app.callback()
def robustmdiff(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Diagnosis from images, text and values of patients of whom anything may be missing."""


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
