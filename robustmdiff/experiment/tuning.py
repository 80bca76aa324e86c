"""Tuning: the same number of random trials for every method (Bergstra and Bengio 2012), the best by log loss.

What ships is tempered, so a trial is scored by the log loss that its head has with the temperature that
suits it best. The head alone, of every method: the other answers of RobustMDiff come from a second stage on
what the first has learned. To fit it in every trial would cost one method more than the others, and let it
take the best of three answers on the very patients that choose the trial, where the others have one. The
price is ours: settings that the second stage would like best are not looked for.

folder/
  trial-NN.json     what was drawn, and what came of it; written once a trial is finished
  trial-NN/         a trial that is not finished (`train`'s files)
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustmdiff.data.collate import Collator
from robustmdiff.data.patient import DataError
from robustmdiff.diagnosis.asking import BATCH
from robustmdiff.diagnosis.contract import HEAD, DiagnosisModel
from robustmdiff.experiment.fit import build_model
from robustmdiff.experiment.studies import Study
from robustmdiff.refusal import Refusal
from robustmdiff.training.config import TrainConfig, make_config, plain_config
from robustmdiff.training.order import VALIDATION, random_key
from robustmdiff.whole import write_whole

TRIALS = 12
Draw = Callable[[np.random.Generator], Any]


def log_uniform(low: float, high: float) -> Draw:
    """To three digits, so that a table can print what was used."""
    return lambda rng: float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")


def one_of(*values: Any) -> Draw:
    return lambda rng: values[int(rng.integers(len(values)))]


# Of every method that is trained by gradient steps, by its key in the configuration.
SETTINGS: dict[str, Draw] = {
    "learning_rate": log_uniform(3e-4, 6e-3),
    "weight_decay": log_uniform(1e-3, 0.3),
    "model.dropout": one_of(0.0, 0.1, 0.3),
    "model.d_h": one_of(32, 64),
}
# Of the methods that are fitted at once, instead.
OPTIONS: dict[str, dict[str, Draw]] = {
    "logistic_regression": {"l2": log_uniform(1e-5, 1.0)},
    "gradient_boosting": {
        "trees": one_of(50, 100, 200),
        "leaves": one_of(4, 8, 16, 31),
        "learning_rate": log_uniform(0.02, 0.3),
        "l2": log_uniform(1e-2, 100.0),
        "smallest_leaf": one_of(5, 10, 20, 40),
    },
}


class Trial(NamedTuple):
    """settings of the configuration by dotted key, options of the model"""

    settings: dict[str, Any]
    options: dict[str, Any]

    def configure(self, config: TrainConfig) -> TrainConfig:
        """`config` with these settings."""
        values = plain_config(config)
        for key, value in self.settings.items():
            *groups, name = key.split(".")
            group = values
            for each in groups:
                group = group[each]
            group[name] = value
        return make_config(values, "trial")


def draw(kind: str, number: int, seed: int) -> Trial:
    """Trial `number` of a method; methods with the same space are drawn the same."""
    rng = np.random.default_rng([seed, number])
    space = OPTIONS.get(kind, SETTINGS)
    drawn = {name: of(rng) for name, of in space.items()}
    return Trial({}, drawn) if kind in OPTIONS else Trial(drawn, {})


def tune(
    study: Study, config: TrainConfig, folder: Path, kind: str, *, trials: int = TRIALS, seed: int = 0
) -> None:
    """`trials` random trials of a method on one study, for `best_of`. Those that `folder` holds are not made
    again, and one that was cut off goes on where it was.

    A trial trains on the training patients. The calibration patients validate it: by the tempered log loss of
    its head, the mean over `config.valid_missing`, of the weights that `config.monitor` chose among the
    epochs. The tenth that a run holds back for that would be too few to tell twelve trials apart. Test
    patients are not looked at.

    Raises DataError for a folder that holds other trials, Refusal where the log loss is not defined.
    """
    for number in range(trials):
        _once(study, config, folder, kind, number, seed)


class Tuned(NamedTuple):
    """The best trial, and the CPU seconds that all took; of one that was cut off, those of the process that
    ended it."""

    trial: Trial
    cpu_seconds: float


def best_of(folder: Path, trials: int) -> Tuned | None:
    """The best of that many trials, by log loss; None where they are not all made."""
    paths = [_record(folder, number) for number in range(trials)]
    if not all(path.exists() for path in paths):
        return None
    made = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    best = min(made, key=lambda record: record["log_loss"])
    return Tuned(Trial(best["settings"], best["options"]), sum(record["cpu_seconds"] for record in made))


def _record(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:02}.json"


def _once(study: Study, config: TrainConfig, folder: Path, kind: str, number: int, seed: int) -> None:
    from robustmdiff.diagnosis.train import train

    trial = draw(kind, number, seed)
    asked = {"source": study.source.to_json(), "config": plain_config(config), **trial._asdict()}
    path = _record(folder, number)
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if any(record[name] != value for name, value in json.loads(json.dumps(asked)).items()):
            raise DataError(f"{path}: is a trial of something else, expected a new folder, or the same plan")
        return
    place, began = path.with_suffix(""), time.process_time()
    model, collator, own = build_model(study, trial.configure(config), kind, trial.options)
    patients = study.patients["train"], study.patients["calibration"]
    name = f"{kind}, trial {number}"
    result = train(model, *patients, collator, own, place, resume=True, name=name)
    if "log_loss" not in result.metrics:
        raise Refusal(f"tune: {kind} has no log loss, expected calibration patients whose labels are known")
    found = {
        "log_loss": _log_loss(model, study, collator, own, place),
        "metrics": result.metrics,
        "cpu_seconds": time.process_time() - began,
    }
    write_whole(path, json.dumps(asked | found, indent=1).encode())
    shutil.rmtree(place)


def _log_loss(
    model: DiagnosisModel, study: Study, collator: Collator, config: TrainConfig, place: Path
) -> float:
    """The head's log loss in the calibration patients, tempered, under the masks that chose the epoch."""
    from robustmdiff.diagnosis.validation import tempered_log_loss
    from robustmdiff.training.batches import PackedPatients
    from robustmdiff.training.loop import make_accelerator

    found = tempered_log_loss(
        model,
        make_accelerator(config, place),
        PackedPatients(study.patients["calibration"], collator, config.cache_gb, quiet=True),
        config.valid_missing,
        [HEAD],
        batch_size=BATCH,
        seed=random_key(config.seed, VALIDATION),
        weight=study.calibration_weight,
    )
    return found[HEAD]
