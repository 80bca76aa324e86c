"""`robustmdiff cohort`: patients of the built-in cohort."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson
from robustmdiff.cli.show import show


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
    from robustmdiff.data.counts import counts

    made = make_cohort(CohortConfig(patients=patients, seed=seed, missingness=missingness, rate=rate))
    found = counts(list(made.patients), made.task)
    result: dict[str, Any] = found._asdict()
    if check:
        result["readers"] = reader_check(made)
    show(result, as_json, tables={"Diseases": found.classes, "Modalities": found.modalities})
