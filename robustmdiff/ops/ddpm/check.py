"""What the DDPM ops refuse, each with the argument, its value and what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robustmdiff.ops.ddpm.definition import DynamicThreshold
from robustmdiff.ops.ddpm.table import Coefficients
from robustmdiff.ops.registration import FLOATS, describe


def one_of(op: str, name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{op}: {name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_like_sample(op: str, sample: Tensor, others: Mapping[str, Tensor | None]) -> None:
    """Floating tensors [B, ...] of the sample's shape, on its device."""
    if not isinstance(sample, Tensor) or sample.dtype not in FLOATS:
        expected = "a tensor of float32, bfloat16, float16 or float64"
        raise TypeError(f"{op}: sample is {describe(sample)}, expected {expected}")
    if sample.dim() == 0:
        raise ValueError(f"{op}: sample has no dimension, expected [B, ...]")
    shape, device = sample.shape, sample.device
    for name, x in others.items():
        if x is None:
            continue
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{op}: {name} is {describe(x)}, expected a floating-point tensor")
        if x.shape != shape:
            raise ValueError(f"{op}: {name} has shape {list(x.shape)}, expected {list(shape)} like sample")
        if x.device != device:
            raise ValueError(f"{op}: {name} is on {x.device}, expected {device} like sample")


def check_schedule(
    op: str,
    sample: Tensor,
    step: Tensor,
    table: Tensor,
    key: Tensor | None,
    row_ids: Tensor | None,
    noise: Tensor | None,
) -> None:
    """Step, table and where the noise comes from."""
    rows, device = sample.shape[:1], sample.device
    table_shape = (*(table.shape[:1] if isinstance(table, Tensor) else (0,)), len(Coefficients._fields))
    _check_schedule_tensor(op, "step", step, torch.int64, rows, device)
    _check_schedule_tensor(op, "table", table, torch.float32, table_shape, device)
    if key is not None:
        _check_schedule_tensor(op, "key", key, torch.int64, (2,), device)
    if row_ids is not None:
        _check_schedule_tensor(op, "row_ids", row_ids, torch.int64, rows, device)
    if (key is None) == (noise is None):
        both = "neither is" if key is None else "both are"
        raise ValueError(f"{op}: expected exactly one of key and noise, {both} given")
    if row_ids is not None and noise is not None:
        raise ValueError(f"{op}: row_ids is given with noise, expected with key only (it numbers drawn rows)")
    if readable(step):
        _check_range(op, "step", step, table.shape[0])
        if row_ids is not None:
            _check_range(op, "row_ids", row_ids, 2**32)


def _check_schedule_tensor(
    op: str, name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    if not isinstance(x, Tensor) or x.dtype != dtype or x.shape != shape:
        raise ValueError(f"{op}: {name} is {describe(x)}, expected {dtype} {list(shape)}")
    if x.device != device:
        raise ValueError(f"{op}: {name} is on {x.device}, expected {device} like sample")


def readable(x: Tensor) -> bool:
    """Whether the values of x can be looked at: eager, on the CPU, outside torch.func."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _check_range(op: str, name: str, x: Tensor, end: int) -> None:
    for at, value in enumerate(x.tolist()):  # a number per row: cheaper than a torch call
        if not 0 <= value < end:
            raise ValueError(f"{op}: {name}[{at}] is {value}, expected 0 to {end - 1}")


def check_clip(op: str, clip: float | DynamicThreshold | None) -> None:
    if clip is None:
        return
    if isinstance(clip, DynamicThreshold):
        if not (0 <= clip.ratio <= 1 and clip.limit > 0):
            raise ValueError(f"{op}: clip is {clip}, expected 0 <= ratio <= 1 and limit > 0")
    elif isinstance(clip, bool) or not isinstance(clip, (int, float)) or not 0 < clip < math.inf:
        raise ValueError(f"{op}: clip is {clip!r}, expected a positive number, a DynamicThreshold or None")


def check_guidance(op: str, guidance: float | Tensor, uncond: Tensor | None, sample: Tensor) -> None:
    if isinstance(guidance, Tensor):
        if guidance.shape != sample.shape[:1] or not guidance.is_floating_point():
            expected = f"a number or a floating-point tensor [{sample.shape[0]}]"
            raise ValueError(f"{op}: guidance is {describe(guidance)}, expected {expected}")
        if guidance.device != sample.device:
            raise ValueError(f"{op}: guidance is on {guidance.device}, expected {sample.device} like sample")
    elif not math.isfinite(guidance):
        raise ValueError(f"{op}: guidance is {guidance}, expected a finite number or a tensor")
    if uncond is None and (isinstance(guidance, Tensor) or guidance != 1.0):
        raise ValueError(f"{op}: guidance is {describe(guidance)} without uncond, expected both or neither")


def check_out(op: str, out: Tensor, sample: Tensor, inputs: tuple[Any, ...]) -> None:
    if out.shape != sample.shape or out.dtype != sample.dtype or out.device != sample.device:
        raise ValueError(f"{op}: out is {describe(out)}, expected {describe(sample)} like sample")
    if not out.is_contiguous():
        raise ValueError(f"{op}: out has strides {out.stride()}, expected a contiguous tensor")
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (out, *inputs)):
        raise ValueError(f"{op}: out is given while a gradient is recorded, use torch.no_grad")
