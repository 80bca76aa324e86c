"""Asking a model: in evaluation mode, on its own device, about a batch under many subsets of what it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from robustmdiff.data.batch import Batch
from robustmdiff.diagnosis.contract import DiagnosisModel
from robustmdiff.diagnosis.subsets import distinct
from robustmdiff.encoders.encoded import Encoded
from robustmdiff.encoders.tensors import tensors
from robustmdiff.ranking import Array, Bools

BATCH = 64  # patients at a time; answers do not depend on it


@contextmanager
def evaluating(model: DiagnosisModel) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards the model is as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def encode(model: DiagnosisModel, batch: Batch) -> Encoded:
    """The batch, wherever it is, encoded on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return model.encode(tensors(batch, device))


def under(encoded: Encoded, left: Bools, ask: Callable[[Encoded], Tensor]) -> Array:
    """What `ask` says, [B, ...], of an encoded batch under each of K subsets of the modalities present,
    left bool [K, B, M] -> float64 [K, B, ...]. A patient's distinct subsets are asked about once."""
    patterns, which = distinct(left)
    device = encoded.segments.device
    views = [encoded.keep(torch.from_numpy(pattern).to(device)) for pattern in patterns]
    said = torch.stack([ask(view) for view in views])
    return said.double().cpu().numpy()[which, np.arange(left.shape[1])]
