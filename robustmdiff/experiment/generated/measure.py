"""How good a generator is, on patients that it has not seen: one number a row, with who is beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from robustmdiff.experiment.generated.cohort import Judged
from robustmdiff.experiment.generated.images import images_from_text
from robustmdiff.experiment.generated.reports import reports_from_image
from robustmdiff.experiment.generated.retrievals import retrievals
from robustmdiff.experiment.generated.rows import Row
from robustmdiff.experiment.generated.sheets import draw_sheets
from robustmdiff.experiment.generated.together import made_together
from robustmdiff.experiment.generated.translations import translations
from robustmdiff.experiment.generator import read_generator_config, series_of
from robustmdiff.experiment.run import SPLIT, read_source
from robustmdiff.experiment.source import Source
from robustmdiff.experiment.studies import cohorts_of, load_study
from robustmdiff.generation.medm2g import MedM2G
from robustmdiff.generation.pretrained import load_generator
from robustmdiff.whole import write_whole

DRAWS = 16


def measure_generator(run: Path, draws: int = DRAWS) -> list[Row]:
    """All that can be measured of a run of `train_generator`, on the test patients of its study; also written
    to run/evaluation/table.json, with pictures beside it. Raises Refusal for a folder that holds none."""
    model, source = load_generator(run / "model"), read_source(run)
    study = load_study(source, None if source.data == "cohort" else run / SPLIT)
    config = read_generator_config(run)
    train, test = (list(series_of(study.task, study.patients[part], config)[1]) for part in ("train", "test"))
    names = model.task.modality_names
    image_of = {name: image for image in config.split for name in names if name.startswith(f"{image}_")}
    rows = [*translations(model, train, test, image_of, draws), *retrievals(model, test)]
    if source.data == "cohort":
        rows += judgements(model, source, run / "evaluation", draws)
    draw_sheets(model, test, run / "evaluation")
    table = [row.plain() for row in rows]
    write_whole(run / "evaluation" / "table.json", json.dumps(table, indent=1).encode())
    return rows


def judgements(model: MedM2G, source: Source, folder: Path, draws: int) -> Iterator[Row]:
    """Of the images that the cohort's readings can judge, and the report, if the model makes both."""
    cohorts = cohorts_of(source)
    if "text" not in model.gists:
        return
    for name in ("xray", "ct"):
        if name in model.grids:
            judged = Judged(model, cohorts["train"], cohorts["test"], name, folder)
            yield from images_from_text(judged)
            yield from reports_from_image(judged, draws)
            if {"xray", "ct"} <= set(model.grids):
                yield from made_together(judged)
