"""What is compared: a workload, the ways to compute it, and who may be timed at all.

Every candidate is checked on the inputs it will be timed on, against the op in dense torch in
float64. A wrong one raises; one that cannot run here is listed with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

TIMES_PLAIN_ERROR = 8  # a wrong answer is off by far more, a right one in another order by less
FORWARD, TRAINING, BACKWARD = "forward", "forward+backward", "backward"


class WrongResult(AssertionError):
    """A candidate that does not compute the op: it gets no time."""


@dataclass(frozen=True)
class Declined:
    """A candidate that cannot run here, and why."""

    name: str
    reason: str
    passes: tuple[str, ...] = (FORWARD, TRAINING, BACKWARD)


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Candidate:
    """One way to compute an op.

    prepare(**tensors)         everything before the computation proper: masks, block lists, packing.
                               Counted, and also timed alone.
    run(prepared, **tensors)   the computation.
    arrange, restore           from the flat layout of the workload to the one this candidate likes best,
                               and back; not timed: a model could keep its tensors so.
    forward_only               why it is left out of the passes with gradients; "" if it is not.
    """

    name: str
    run: Callable[..., Tensor]
    prepare: Callable[..., Any] | None = None
    arrange: Callable[[Tensor], Tensor] = _same
    restore: Callable[[Tensor], Tensor] = _same
    ours: bool = False
    forward_only: str = ""

    def __call__(self, **tensors: Tensor) -> Tensor:
        return self.run(None if self.prepare is None else self.prepare(**tensors), **tensors)


@dataclass(frozen=True)
class Workload:
    """One call of an op. `need` says by pass what it cannot do without: {"forward": {"flops": 3e9}}."""

    op: str
    name: str
    tensors: Tensors
    exact: Callable[..., Tensor]  # the op in dense torch, in the dtype of what it is given
    need: dict[str, dict[str, float]]

    @property
    def device(self) -> str:
        return next(iter(self.tensors.values())).device.type

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors.values())).dtype


def grad_out_of(workload: Workload) -> Tensor:
    """The gradient that comes in: every op here gives a result of the shape of its first tensor."""
    first = next(iter(workload.tensors.values()))
    return torch.randn(first.shape, generator=torch.Generator().manual_seed(12)).to(first)


class Judge:
    """Knows the exact answer to a workload, and how far from it plain torch lands in its dtype."""

    def __init__(self, workload: Workload, gradients: bool) -> None:
        self.workload, self.gradients = workload, gradients
        self.grad_out = grad_out_of(workload)
        self.exact = self._results(workload.exact, torch.float64)
        self.plain = self._results(workload.exact, workload.dtype)

    def _results(self, call: Callable[..., Tensor], dtype: torch.dtype) -> Tensors:
        given = {name: x.to(dtype) for name, x in self.workload.tensors.items()}
        return results(call, given, self.grad_out.to(dtype), self.gradients)

    def check(self, candidate: Candidate, gradients: bool) -> None:
        """Raise WrongResult unless the candidate is about as exact as plain torch."""
        given = {name: candidate.arrange(x) for name, x in self.workload.tensors.items()}
        found = results(candidate, given, candidate.arrange(self.grad_out), gradients)
        for name, x in found.items():
            exact = self.exact[name]
            eps = torch.finfo(self.workload.dtype).eps
            error = float((candidate.restore(x).double() - exact).abs().max())
            plain = float((self.plain[name].double() - exact).abs().max())
            budget = TIMES_PLAIN_ERROR * (plain + eps * float(exact.abs().max()))
            if not error <= budget:  # NaN too
                raise WrongResult(
                    f"{candidate.name}: {name} of {self.workload.op}, {self.workload.name}, is off by "
                    f"{error:.1e}, expected at most {budget:.1e}; it is not timed"
                )


def results(call: Callable[..., Tensor], tensors: Tensors, grad_out: Tensor, gradients: bool) -> Tensors:
    """{"out": ...} and, asked for, {"dq": ...} for every tensor."""
    if not gradients:
        with torch.no_grad():
            return {"out": call(**tensors)}
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    out = call(**leaves)
    found = torch.autograd.grad(out, list(leaves.values()), grad_out)
    return {"out": out.detach()} | {f"d{name}": g for name, g in zip(leaves, found, strict=True)}


def reason_of(error: BaseException) -> str:
    """The first sentence of what was raised, or how much memory it was short of."""
    text = " ".join(str(error).split())
    memory = re.search(r"tried to allocate \S+ \w+", text, re.IGNORECASE)
    if memory:
        return f"out of memory: {memory[0].lower()}"
    return f"{type(error).__name__}: {text.partition('. ')[0][:160]}"


def attempt(name: str, make: Callable[[], Candidate], tensors: Tensors) -> tuple[list[str], Declined | None]:
    """Try a candidate on a tiny input: the passes that it can do, and why not the others."""
    passes: list[str] = []
    try:
        candidate = make()
        given = {name: candidate.arrange(x) for name, x in tensors.items()}
        grad_out = candidate.arrange(next(iter(tensors.values())))
        results(candidate, given, grad_out, gradients=False)
        passes.append(FORWARD)
        if candidate.forward_only:
            return passes, Declined(name, candidate.forward_only, (TRAINING, BACKWARD))
        results(candidate, given, grad_out, gradients=True)
        passes += [TRAINING, BACKWARD]
    except Exception as error:  # whatever a library raises where it cannot run
        missing = tuple(p for p in (FORWARD, TRAINING, BACKWARD) if p not in passes)
        return passes, Declined(name, reason_of(error), missing)
    return passes, None
