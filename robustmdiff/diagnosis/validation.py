"""Validation while training: macro AUROC and log loss, with everything seen and with less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.encoders.tensors import tensors
from robustmdiff.labels import Labels
from robustmdiff.probability import check_probability
from robustmdiff.ranking import macro_auroc
from robustmdiff.training.batches import PackedPatients
from robustmdiff.training.log import TrainingError

EPS = 1e-7  # a probability of float32 is no surer than that


def validate(
    model: DiagnosisModel,
    accelerator: Accelerator,
    patients: PackedPatients,
    missing: Sequence[float],
    *,
    batch_size: int,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """{"macro_auroc": mean over the rates, "macro_auroc@0.5": at one, "log_loss": ...}.

    The masks of rate p hide a present modality where a number drawn once per patient and
    modality from `seed` is under p; they are the same at every validation. The processes share
    the patients; each returns all the numbers. A metric that these patients cannot have (an AUROC without
    a class of both kinds, a log loss without a known label) is left out. Raises TrainingError where the
    model gives NaN, which is neither better nor worse than any number.
    """
    u = torch.rand(patients.presence.shape, generator=torch.Generator().manual_seed(seed))
    mine = np.arange(accelerator.process_index, len(patients), accelerator.num_processes)
    found = []
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        for index in np.array_split(mine, max(1, round(len(mine) / batch_size))) if len(mine) else ():
            encoded = model.encode(tensors(patients.take(index), accelerator.device))
            kept = [(u[index] >= p).to(accelerator.device) for p in missing]
            p = [model.diagnose(encoded.keep(k), draws=draws, seed=seed).probability for k in kept]
            found.append((index, torch.stack(p).float().cpu()))
    model.train()
    probability = torch.empty(len(missing), *patients.label.shape)
    for index, p in gather_object(found):
        probability[:, index] = p
    try:
        check_probability("validation", probability, patients.ids)
    except ValueError as e:
        raise TrainingError(
            f"{e}; the last checkpoint is from before it; try a lower learning_rate or precision fp32"
        ) from e

    label, known = np.asarray(patients.label) > 0.5, np.asarray(patients.label_known).astype(bool)
    rows = {
        "macro_auroc": [macro_auroc(p, label, known) for p in probability.double().numpy()],
        "log_loss": [log_loss(p, patients.label, patients.label_known, model.labels) for p in probability],
    }
    rows = {name: values for name, values in rows.items() if not np.isnan(values).any()}
    metrics = {name: float(np.mean(values)) for name, values in rows.items()}
    for name, values in rows.items():
        metrics |= {f"{name}@{rate:g}": value for rate, value in zip(missing, values, strict=True)}
    return metrics


def log_loss(probability: Tensor, label: Tensor, known: Tensor, labels: Labels) -> float:
    """-log p of the true class, the mean over patients whose label is known; for many labels the
    binary one, the mean over known cells. All tensors [n, C]. NaN if nothing is known; ValueError for
    what is no probability."""
    check_probability("log_loss", probability)
    return float(labels.surprise(probability.double().clamp(EPS, 1 - EPS), label, known).mean())
