"""`robustmdiff data`: patients of one's own, looked at before anything is trained on them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, SkipBad
from robustmdiff.cli.show import left_out, show

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Read patients of yours and count what is there."""


@app.command()
def verify(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A folder of yours (docs/data.md).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="The format of --root, if another: chestxray.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the data of that format lie.")
    ] = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Read every row and file of a folder and count what there is, before you train on it.

    Rows that cannot be read are listed, all of them; unless --skip-bad, the exit code is then 2.

    \b
    Examples:
      robustmdiff data verify my_patients
      robustmdiff data verify --data chestxray --root data/chestxray
    """
    from robustmdiff.data.bad_rows import BadRows
    from robustmdiff.data.sources import SOURCES
    from robustmdiff.experiment.other_patients import found, named_source

    source = named_source(data if folder is None else str(folder), root)
    bad = BadRows(skip=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = found(source, bad)
        more: dict[str, Any] = SOURCES[source.data].counted(str(source.root))
    said = list(dict.fromkeys(str(warning.message) for warning in told))
    tables = {
        "Modalities": there.counts.modalities,
        "Classes": there.counts.classes,
        "Sites": there.counts.sites,
        "Splits": there.splits,
        "Of this format": [{"what": what, "count": count} for what, count in more.items()],
    }
    result = {**there.counts._asdict(), "splits": there.splits, "more": more, "warnings": said}
    people = f"{there.counts.patients} records of {there.counts.people} people"
    title = f"{people}, {there.counts.labelled} labelled"
    show(result | left_out(bad), as_json, tables={f"{title}": []} | {n: t for n, t in tables.items() if t})
    if bad.problems and not skip_bad:
        raise typer.Exit(2)
