"""A pretended accelerator: tensors that refuse to meet those of the CPU, as on a real one.

    with elsewhere.available():
        tensor.to(elsewhere.DEVICE)

A tensor taken `.to(DEVICE)` is There. Whatever mixes it with a tensor of the CPU, or makes an array of it
before `.cpu()`, raises what torch raises. It computes on the CPU, with ordinary operators only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from robustmdiff.data.modality import Field, Modality
from robustmdiff.data.patient import Patient
from robustmdiff.data.task import Task
from robustmdiff.diagnosis.contract import DiagnosisModel, Logits
from robustmdiff.encoders.config import ModelConfig
from robustmdiff.encoders.encoded import Encoded

DEVICE = torch.device("meta")  # its name; nothing computes there


class There(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if function == torch.Tensor.device.__get__:
            return DEVICE
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert a tensor of the accelerator to numpy, use Tensor.cpu() first")
        if name == "cpu" or (name == "to" and torch.device("cpu") in _devices(args, kwargs)):
            return args[0].as_subclass(torch.Tensor)
        if any(type(t) is torch.Tensor and t.ndim for t in _tensors(args)):
            raise RuntimeError(f"Expected all tensors to be on the same device ({name})")
        if name == "to" and DEVICE in _devices(args, kwargs):
            return args[0]
        return super().__torch_function__(function, types, args, kwargs)


class available(TorchFunctionMode):
    """While this is on, tensors can be sent to DEVICE and made there."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") == "to" and DEVICE in _devices(args, kwargs):
            return args[0].as_subclass(There)
        if kwargs.get("device") == DEVICE:
            return function(*args, **{**kwargs, "device": "cpu"}).as_subclass(There)
        return function(*args, **kwargs)


def _devices(args, kwargs):
    named = [*args[1:], *kwargs.values()]
    return [torch.device(x) for x in named if isinstance(x, str | torch.device)]


def _tensors(args):
    for value in args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


TASK = Task(
    modalities=tuple(Modality(name, "values", fields=(Field("x"),)) for name in "abc"),
    classes=("well", "ill"),
    prevalence=(0.5, 0.5),
)


class Reader(DiagnosisModel):
    """Everything it is given meets its own weight: what is elsewhere raises."""

    def __init__(self):
        super().__init__(TASK, ModelConfig(), None)
        self.weight = nn.Parameter(torch.tensor([1.5]))

    def move(self):
        self.weight = nn.Parameter(self.weight.detach().to(DEVICE))
        for name, value in self.named_buffers():
            setattr(self, name, value.to(DEVICE))

    def encode(self, batch):
        H = torch.zeros(*batch.presence.shape, 1, device=self.weight.device)
        for m, name in enumerate(TASK.modality_names):
            panel = batch.inputs[name]
            H[panel.rows, m] = panel.value * self.weight
        start = torch.arange(batch.presence.numel(), device=self.weight.device).reshape(batch.presence.shape)
        return Encoded(H.flatten(0, 1), torch.stack([start, batch.presence.long()], -1), H)

    def observe(self, encoded):
        return (encoded.H * (encoded.segments[..., 1:] > 0)).sum(1) * self.weight

    def classify(self, encoded):
        z = self.observe(encoded)
        return Logits(torch.cat([-z, z], 1))

    def losses(self, encoded, batch, kept, weight):
        raise AssertionError("it is not trained")


def ward(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Patient(
            f"{seed}-{i}",
            {name: {"x": float(rng.normal(i % 2))} if rng.random() < 0.7 else None for name in "abc"},
            labels={"well": i % 2 == 0, "ill": i % 2 == 1},
        )
        for i in range(n)
    ]
