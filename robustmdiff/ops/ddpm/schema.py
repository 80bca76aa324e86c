"""The operators as torch's dispatcher knows them: schemas, and what their outputs look like."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from robustmdiff.ops.registration import define

# prediction is an index into PREDICTIONS; clip inf means none; guidances [B] wins over guidance; exact:
# variance_output is the log variance itself.
PREDICTIONS = ("epsilon", "sample", "v_prediction")
STEP = (
    "Tensor sample, Tensor model_output, Tensor step, Tensor table, Tensor? uncond, Tensor? guidances, "
    "Tensor? variance_output, Tensor? key, Tensor? row_ids, Tensor? noise, "
    "float guidance, float clip, int prediction, bool exact"
)
NOISE = "Tensor sample, Tensor step, Tensor table, Tensor? key, Tensor? row_ids, Tensor? noise"
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
