"""The operators as torch's dispatcher knows them: schemas, and what their outputs look like."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustmdiff.ops.registration import define

# prediction is an index into PREDICTIONS; clip inf means none; guidances [B] wins over guidance.
PREDICTIONS = ("epsilon", "sample", "v_prediction")
STEP = (
    "Tensor sample, Tensor model_output, Tensor step, Tensor table, Tensor? uncond, Tensor? guidances, "
    "Tensor? variance_output, Tensor? key, Tensor? row_ids, Tensor? noise, "
    "float guidance, float clip, int prediction"
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


step = define("ddpm_step", f"({STEP}) -> Tensor", _like_the_first, _no_products)
step_out = define("ddpm_step_out", f"(Tensor(a!) out, {STEP}) -> ()", _nothing, _no_products)
noise = define("ddpm_noise", f"({NOISE}) -> Tensor", _like_the_first, _no_products)
noise_out = define("ddpm_noise_out", f"(Tensor(a!) out, {NOISE}) -> ()", _nothing, _no_products)
normal = define("philox_normal", f"({NORMAL}) -> Tensor", _like_the_first, _no_products)
