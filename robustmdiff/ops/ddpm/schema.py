"""The operators as torch's dispatcher knows them: schemas, and what their outputs look like."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from robustmdiff.ops.ddpm.arguments import Noise, Step
from robustmdiff.ops.registration import define, inputs_of

STEP = inputs_of(Step, Step._fields[:-1])  # all but out
NOISE = inputs_of(Noise, Noise._fields[:-1])
NORMAL = "Tensor like, Tensor step, Tensor key, Tensor? row_ids"


def _like_the_first(first: Tensor, *_: Any) -> Tensor:
    return first.new_empty(first.shape)


def _nothing(*_: Any) -> None:
    return None


def _no_products(*_: Any) -> int:
    """torch counts matrix products only."""
    return 0


class Operators(NamedTuple):
    """The operators of one backend."""

    step: Any
    step_out: Any
    noise: Any
    noise_out: Any
    normal: Any


def declare(suffix: str) -> Operators:
    """Define the operators of one backend; "" is the native one."""
    return Operators(
        define(f"ddpm_step{suffix}", f"({STEP}) -> Tensor", _like_the_first, _no_products),
        define(f"ddpm_step_out{suffix}", f"(Tensor(a!) out, {STEP}) -> ()", _nothing, _no_products),
        define(f"ddpm_noise{suffix}", f"({NOISE}) -> Tensor", _like_the_first, _no_products),
        define(f"ddpm_noise_out{suffix}", f"(Tensor(a!) out, {NOISE}) -> ()", _nothing, _no_products),
        define(f"philox_normal{suffix}", f"({NORMAL}) -> Tensor", _like_the_first, _no_products),
    )
