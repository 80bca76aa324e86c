"""How an op enters torch: its schema, its shape rule, its backends, its gradient.

The schema of an op is written once. Each backend of it is an operator of its own with that same
schema (`masked_attention_fwd_torch`, `masked_attention_fwd_triton`; the native one carries the
plain name), so that no two backends compete for one device.

These operators have no gradient of their own: robustmdiff.ops.bridge makes it of the pair (forward,
backward).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

NAMESPACE = "robustmdiff"

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# The log-sum-exp of a row that saw nothing: finite, so that no kernel ever subtracts infinities.
NOTHING = -1e30


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax and sums: float32, and float64 where the inputs are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_TYPES = {Tensor: "Tensor", float: "float", bool: "bool", int: "int"}


_flops: dict[Any, Callable[..., int]] = {}  # of each operator, from its own arguments


def register_flops() -> None:
    """Tell `torch.utils.flop_counter` what the ops cost; FlopCounterMode counts them from then on.

    Not done by itself, because that module imports Triton where it is installed, which takes several times
    as long as all of this package. Calling it again is harmless.
    """
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    for operator, flops in _flops.items():
        if operator not in flop_registry:
            formula = partial(_without_output, flops)
            register_flop_formula(operator, get_raw=True)(formula)


def _without_output(flops: Callable[..., int], *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return flops(*args, **kwargs)


def inputs_of(arguments: type[Any], fields: tuple[str, ...]) -> str:
    """Fields of a NamedTuple of arguments as a schema has them: "Tensor q, Tensor? bias, float scale"."""

    def kind(hint: Any) -> str:
        """`X | None` is optional; of another union what an operator can take: its members known to torch."""
        (name,) = (_TYPES[x] for x in get_args(hint) or (hint,) if x in _TYPES)
        return name + ("?" if NoneType in get_args(hint) else "")

    hints = get_type_hints(arguments)
    return ", ".join(f"{kind(hints[name])} {name}" for name in fields)


def tensors_of(arguments: type[Any]) -> tuple[int, ...]:
    """Where a NamedTuple of arguments has a tensor, or None in the place of one."""
    hints = get_type_hints(arguments).values()
    return tuple(i for i, hint in enumerate(hints) if Tensor in (get_args(hint) or (hint,)))


def define(name: str, schema: str, fake: Callable[..., Any], flops: Callable[..., int]) -> Any:
    """Define `robustmdiff::<name>` and return the operator; `flops` takes the operator's own
    arguments; see `register_flops`.

    Under autocast the operator runs with autocast off: its inputs have been cast by the public
    function, and what it computes inside in float32 must stay in float32.
    """
    qualified = f"{NAMESPACE}::{name}"

    def on_one_device(*args: Any) -> Any:
        """Among tensors of several devices the meta device wins, and nothing would be computed."""
        devices = {x.device for x in args if isinstance(x, Tensor)}
        if len(devices) > 1:
            raise ValueError(f"{name}: tensors are on {' and '.join(map(str, devices))}, expected one device")
        return fake(*args)

    torch.library.define(qualified, schema)
    torch.library.register_fake(qualified, on_one_device)
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default

    def without_autocast(device: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with torch.autocast(device, enabled=False):
                return operator(*args)

        return run

    torch.library.impl(qualified, "AutocastCPU", without_autocast("cpu"))
    torch.library.impl(qualified, "AutocastCUDA", without_autocast("cuda"))
    _flops[operator.overloadpacket] = flops
    return operator


def implement(name: str, function: Callable[..., Any]) -> None:
    """Give `robustmdiff::<name>` an implementation in torch, for every device."""
    torch.library.impl(f"{NAMESPACE}::{name}", "CompositeExplicitAutograd", function)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on for their device, else unchanged."""
    if not torch._C._is_any_autocast_enabled():  # what a device is called costs as much as several checks
        return tensors
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) if tensor.dtype != torch.float64 else tensor for tensor in tensors)


def describe(x: Any) -> str:
    """A value in the words of an error: a tensor by its dtype, shape and device."""
    return f"{x.dtype} {list(x.shape)} on {x.device}" if isinstance(x, Tensor) else repr(x)
