"""`robustmdiff generator`: train one, and measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustmdiff.cli.arguments import AsJson, SkipBad
from robustmdiff.cli.pairs import pairs
from robustmdiff.cli.show import show
from robustmdiff.data.sources import SOURCES

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command(short_help="Align, fit latents, train flows and translations, save everything.")
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
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of hyper-parameters, as a run's config.yaml.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One hyper-parameter: gist=64, flows.epochs=50."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the data: seed=1, image_size=128."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1; a GPU if there is one."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where a run stopped; else the same command.")
    ] = False,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Train a generator: one model of all texts and images of the data, in whatever combination.

    \b
    Examples:
      robustmdiff generator train --config generate_cohort.yaml --out runs/g
      robustmdiff generator train --data lgg --root data/lgg --out runs/lgg
    """
    from robustmdiff.data.bad_rows import BadRows
    from robustmdiff.experiment.generator import load_generator_config, train_generator
    from robustmdiff.experiment.run import usable
    from robustmdiff.experiment.source import Source
    from robustmdiff.experiment.studies import load_study

    settings = load_generator_config(config, pairs(set_, "--set"))
    place = str(root.resolve()) if root else None
    source = Source(data, place, options=pairs(option, "--option"), skip_bad=skip_bad)
    study = load_study(source, bad=BadRows(skip_bad))
    where = None if device is None else usable(device)
    model = train_generator(study, settings, out, resume=resume, device=where)
    show({"run": str(out), "generates": ", ".join(model.gists), "frames": len(model.frames)}, as_json)


@app.command(short_help="Measure it on patients that it has not seen.")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `generator train` wrote.")],
    draws: Annotated[int, typer.Option(min=2, help="Of each translation.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Measure a generator on the test patients of its study, and write RUN/evaluation/table.json.

    \b
    Example:
      robustmdiff generator evaluate runs/generator
    """
    from robustmdiff.experiment.generated.measure import measure_generator

    rows = [row.plain() for row in measure_generator(run, draws)]
    show({"run": str(run), "rows": rows}, as_json, tables=_by_task(rows))


def _by_task(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        line = {name: row[name] for name in ("method", "measure", "value", "low", "high", "patients")}
        tables.setdefault(str(row["task"]), []).append(line)
    return tables
