"""How many steps a sampler needs: every sampler at every number of evaluations, on runs that are there.

    python -m tools.few_steps RUN [RUN ...] --out runs/few_steps    measure; write results/few_steps.json
    python -m tools.few_steps --table                               the table in docs/results.md, anew

The runs are of one study with several seeds; their test patients are asked. The second stage of kind "flow"
is the run's own, that of kind "ddpm" is fitted to the same latents (and kept in --out). Nothing is chosen
here.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from benchmarks.machine import commit
from robustmdiff.data.patient import Patient
from robustmdiff.data.splits import hold_out
from robustmdiff.diagnosis.latents import fit_second_stage
from robustmdiff.diagnosis.second_stage import SecondStage
from robustmdiff.diffusion.recurrence import Steps, ddim, ddpm, dpmpp_2m, euler, heun
from robustmdiff.diffusion.schedule import Schedule, StraightPath
from robustmdiff.evaluation import statistics
from robustmdiff.evaluation.forecasts import Asked, ask, scored
from robustmdiff.experiment.run import Run, load_run
from robustmdiff.experiment.studies import load_study
from robustmdiff.forecast.flow import TIME_UNIT, FlowForecast
from robustmdiff.ops import philox_key
from robustmdiff.ranking import Array, macro_auroc
from robustmdiff.training.config import load_config
from robustmdiff.whole import write_whole

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "results" / "few_steps.json", ROOT / "docs" / "results.md"
PLACE = re.compile(r"(<!-- few steps -->\n).*?(<!-- end of few steps -->)", re.DOTALL)
EVALUATIONS = (1, 2, 4, 8, 16, 50, 250, 1000)
PEOPLE, DRAWS, SEED, REPLICATES = 300, 32, 0, 200  # the first people of the test
DEFAULT = "flow, Heun", 4
COLUMNS = {
    "energy": "energy score",
    "minus": "minus the default",
    "coverage": "intervals of .90 hold",
    "auroc": "AUROC of the mean",
    "log_loss": "its log loss",
}


def samplers() -> Iterator[tuple[str, int, str, Steps]]:
    """Name, evaluations, kind of second stage, steps."""
    for n in EVALUATIONS:
        yield "flow, Euler", n, "flow", euler(StraightPath(n), TIME_UNIT)
        if n % 2 == 0:
            yield "flow, Heun", n, "flow", heun(StraightPath(n // 2), TIME_UNIT)
        for name, of in (("DDPM", ddpm), ("DDIM", ddim), ("DPM-Solver++(2M)", dpmpp_2m)):
            yield name, n, "ddpm", of(Schedule(steps=n), 1.0)


def measure(runs: Sequence[Path], out: Path) -> dict[str, Any]:
    each = [_of_run(load_run(path), path, out / path.name) for path in runs]
    mean = {
        key: {what: np.mean([one[key][what] for one in each], axis=0) for what in each[0][key]}
        for key in each[0]
    }
    rows = []
    for (name, n), found in mean.items():
        minus = {"minus": found["energy"] - mean[DEFAULT]["energy"]}
        intervals = {what: statistics.interval(x) for what, x in (found | minus).items()}
        rows.append(
            {"sampler": name, "evaluations": n} | {what: x and list(x) for what, x in intervals.items()}
        )
    source = load_run(runs[0]).source
    return {
        "command": f"python -m tools.few_steps {' '.join(path.as_posix() for path in runs)}",
        "commit": commit(),
        "date": date.today().isoformat(),
        "data": source.data,
        "options": source.options,
        "runs": len(runs),
        "people": PEOPLE,
        "draws": DRAWS,
        "rows": rows,
    }


def _of_run(run: Run, path: Path, kept: Path) -> Mapping[tuple[str, int], Mapping[str, Array]]:
    study = load_study(run.source)
    model, patients = run.model.eval(), study.patients["test"][:PEOPLE]
    stages = {"flow": model.second_stage, "ddpm": _ddpm(run, study.patients["train"], kept)}
    asked = ask(model, patients, run.collator, SEED)
    weights = statistics.resamples(asked.persons, REPLICATES, SEED)
    key = philox_key(SEED)
    found = {}
    for name, n, kind, steps in tqdm(list(samplers()), desc=str(path), unit="sampler", disable=None):
        stage = stages[kind]
        assert isinstance(stage.forecast, FlowForecast)
        stage.forecast.follow(steps)

        def draw(seen: Any, view: Tensor, draws: int, key: Tensor, stage: SecondStage = stage) -> Tensor:
            return stage.draw(model, seen, view, draws, key)

        scores, p = scored(model, draw, asked, weights, DRAWS, key)
        found[name, n] = _diagnosis(p.mean(1), patients, run, asked, weights) | {
            what: getattr(scores, what) for what in ("energy", "coverage")
        }
    return found


def _ddpm(run: Run, patients: Sequence[Patient], kept: Path) -> SecondStage:
    own, seed = run.model.second_stage, load_config(run.folder / "config.yaml").seed
    fitting, watching = hold_out(patients, seed)
    kept.mkdir(parents=True, exist_ok=True)
    fit_second_stage(run.model, fitting, watching, run.collator, "ddpm", seed, kept)
    found, run.model.second_stage = run.model.second_stage, own
    return found


def _diagnosis(
    p: Tensor, patients: Sequence[Patient], run: Run, asked: Asked, weights: Array
) -> dict[str, Array]:
    """Of the mean of the draws, as a diagnosis."""
    row = {patient.person: i for i, patient in enumerate(patients)}
    batch = run.collator(patients)
    rows = [row[person] for person in asked.persons]
    label, known = np.asarray(batch.label)[rows] > 0.5, np.asarray(batch.label_known)[rows]
    said = p.double().clamp(1e-6).numpy()
    loss = -np.log((said / said.sum(1, keepdims=True))[label])
    auroc = [
        macro_auroc(np.repeat(said, w, 0), np.repeat(label, w, 0), np.repeat(known, w, 0))
        for w in weights.astype(int)
    ]
    return {"auroc": np.array(auroc), "log_loss": weights @ loss / weights.sum(1)}


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of a page."""
    lines = [
        f"{record['data']}, {record['runs']} seeds, {record['people']} people, {record['draws']} draws, "
        f"half missing; commit {record['commit']}, {record['date']}:",
        "",
        "    " + record["command"],
        "",
        "| sampler | evaluations | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for row in record["rows"]:
        cells = [_text(row[what], ".4f" if what in ("energy", "minus") else ".3f") for what in COLUMNS]
        lines.append(f"| {row['sampler']} | {row['evaluations']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(interval: Sequence[float] | None, digits: str) -> str:
    if interval is None:
        return ""
    value, low, high = (format(x, digits) for x in interval)
    return f"{value} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "few_steps", help="where what is fitted is kept"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.runs and not options.table:
        write_whole(RECORD, json.dumps(measure(options.runs, options.out), indent=1).encode())
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PLACE.sub(lambda place: place[1] + table(record) + place[2], page), encoding="utf-8")


if __name__ == "__main__":
    main()
