"""Dropout that belongs to the patient: the same on any number of processes, whoever else is in the batch.

Within `of_batch` the mask of a row is a function of the training step's number, the place in the model
and the patient, drawn by Philox; where no step is running, or the rows of a tensor are not known,
dropout is torch's own.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from statistics import NormalDist

import torch
from torch import Tensor, nn

from robustmdiff.ops import ddpm_noise
from robustmdiff.ops.ddpm.table import Coefficients
from robustmdiff.ops.philox import philox_key

NOISE_ALONE = torch.tensor([[float(name == "sqrt_beta_bar") for name in Coefficients._fields]])


SPREAD = 2654435761  # odd, 2^32 over the golden ratio: a patient's tokens have numbers far from each other


class _Now:
    """The step, whose row each row is, and how often each place has drawn for these rows. end_to_end: the
    rows are along the second axis, of a batch of one."""

    def __init__(self, step: int, numbers: Tensor, end_to_end: bool = False) -> None:
        self.step, self.numbers, self.end_to_end = step, numbers, end_to_end
        self.calls: Counter[int] = Counter()


_now: ContextVar[_Now | None] = ContextVar("robustmdiff_dropout", default=None)


def patient_numbers(ids: Sequence[str], device: torch.device | str | None = None) -> Tensor:
    """int64 [n], below 2^32: what stands for a patient in a counter."""
    return torch.tensor([zlib.crc32(i.encode()) for i in ids], dtype=torch.int64, device=device)


@contextmanager
def of_batch(step: int, ids: Sequence[str]) -> Iterator[None]:
    """Within it the rows of a tensor are these patients, in a training step of this number, below 2^32."""
    with _set(_Now(step, patient_numbers(ids))):
        yield


@contextmanager
def of_rows(index: Tensor) -> Iterator[None]:
    """Within it the rows are those patients of the batch: index int64 [n]."""
    now = _now.get()
    with _set(None if now is None else _Now(now.step, now.numbers.to(index.device)[index])):
        yield


@contextmanager
def of_tokens(row: Tensor, place: Tensor) -> Iterator[None]:
    """Within it tensors are [1, T, ...], tokens end to end: whose each is, and its place there, int64 [T]."""
    now = _now.get()
    if now is not None:
        numbers = now.numbers.to(row.device)[row] + place * SPREAD
        now = _Now(now.step, numbers % 2**32, end_to_end=True)
    with _set(now):
        yield


@contextmanager
def of_others(n: int) -> Iterator[None]:
    """Within it the rows are no patients, but the same n things for everybody, such as concepts."""
    now = _now.get()
    with _set(None if now is None else _Now(now.step, torch.arange(n))):
        yield


@contextmanager
def _set(now: _Now | None) -> Iterator[None]:
    token = _now.set(now)
    try:
        yield
    finally:
        _now.reset(token)


class PatientDropout(nn.Dropout):
    """nn.Dropout of [rows, ...]; `place` tells it from the others of its model."""

    def __init__(self, p: float, place: int) -> None:
        super().__init__(p)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        now = _now.get()
        if not self.training or now is None or not 0 < self.p < 1:
            return super().forward(x)
        rows = x[0] if now.end_to_end else x
        if len(rows) != len(now.numbers):
            return super().forward(x)
        call = now.calls[self.place]
        now.calls[self.place] += 1
        key = philox_key((self.place + 1) * 2**32 + call, now.step, device=x.device)
        numbers = now.numbers.to(x.device, non_blocking=True)
        with torch.no_grad():
            mask = _normal(rows.shape, key, numbers).gt_(NormalDist().inv_cdf(self.p)).mul_(1 / (1 - self.p))
        return x * mask.to(x.dtype)


def _normal(shape: torch.Size, key: Tensor, numbers: Tensor) -> Tensor:
    """float32 [rows, ...], drawn as all noise is: that of x_0 = 0 at a step of noise alone."""
    nothing, first = torch.zeros(shape, device=numbers.device), torch.zeros_like(numbers)
    return ddpm_noise(nothing, first, NOISE_ALONE.to(numbers.device), key=key, row_ids=numbers)


def give_to_patients(model: nn.Module) -> None:
    """Turn every nn.Dropout of a model into a PatientDropout, whoever wrote the module that holds it."""
    places = itertools.count(sum(isinstance(module, PatientDropout) for module in model.modules()))
    made: dict[nn.Module, PatientDropout] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout:
            if module not in made:
                made[module] = PatientDropout(module.p, next(places)).train(module.training)
            model.set_submodule(name, made[module])
