"""Models that are fitted at once instead of by gradient steps, to the same patients, masks and weights."""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.losses import Losses, class_loss
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.training.checkpoint import (
    LAST,
    check_same_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from robustmdiff.training.config import TrainConfig, plain_config
from robustmdiff.training.contract import Validation
from robustmdiff.training.loop import TrainResult, introduce, told
from robustmdiff.training.notes import Note
from robustmdiff.training.plan import PatientPlan


class FittedModel(DiagnosisModel):
    """A model of buffers, without parameters: `learn` sets them, and no gradient does."""

    @abstractmethod
    def learn(self, shown: Iterable[tuple[Batch, Tensor, Tensor]]) -> None:
        """Called once, with all that a model trained by gradient steps is shown in the course of them: each
        batch, what is kept of it, bool [b, M], and the weights of the patients' cells, float32 [b, C]."""

    def losses(self, encoded: Encoded, batch: Batch, kept: Tensor, weight: Tensor) -> Losses:
        """L_class of its answers."""
        logits = self.classify(encoded.keep(kept)).logits
        return Losses(L_class=class_loss(self.labels, logits, batch, weight))


def fit_at_once(
    model: FittedModel,
    plan: PatientPlan,
    config: TrainConfig,
    out_dir: Path,
    accelerator: Accelerator,
    *,
    name: str,
    data: Mapping[str, Any],
    validation: Validation | None,
    notes: Sequence[Note],
) -> TrainResult:
    """What `Loop.run` is for the others, with the same meaning of the arguments: 0 steps, the metrics of the
    one validation. A run that is there is loaded; one that was cut off starts anew, and gives the same.
    The plan is that of one process: each of several fits the same model."""
    path, what = out_dir / LAST, json.loads(json.dumps(data))
    model.to(accelerator.device).eval()
    if path.exists():
        found = load_checkpoint(path)
        check_same_run(found, config, what)
        load_weights(model, found.weights, path)
        return TrainResult(model, out_dir, 0, 0, found.metrics)
    if accelerator.is_main_process:
        introduce(name, config, out_dir, notes, started=False)
    shown = (part.inputs for step in range(plan.steps) for part in plan.parts(step, 0, accelerator.device))
    model.log_weight.copy_(plan.rare.log_weight)
    model.learn(shown)
    metrics = validation.measure() if validation else {}
    model.eval()
    if accelerator.is_main_process:
        if validation:
            print(f"{name}, {validation.of}: {told(metrics)}", file=sys.stderr)
        state = {"step": 0, "best_step": 0, "metrics": metrics, "config": plain_config(config)}
        save_checkpoint(path, {f"model.{k}": v for k, v in model.state_dict().items()}, what | state)
    accelerator.wait_for_everyone()
    return TrainResult(model, out_dir, 0, 0, metrics)
