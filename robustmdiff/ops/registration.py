"""How an op enters torch: its schema, its shape rule, its backends, its gradient.

The schema of an op is written once. Each backend of it is an operator of its own with that same
schema (`masked_attention_fwd_torch`, `masked_attention_fwd_triton`; the native one carries the
plain name), so that no two backends compete for one device.

These operators have no gradient of their own. The gradient is an autograd.Function around the
pair (forward, backward), made by `differentiable`; it is the only place where gradients enter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from robustmdiff.ops import flop_formulas

NAMESPACE = "robustmdiff"

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# The log-sum-exp of a row that saw nothing: finite, so that no kernel ever subtracts infinities.
NOTHING = -1e30


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of softmax and sums: float32, and float64 where the inputs are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def define(name: str, schema: str, fake: Callable[..., Any], flops: Callable[..., int]) -> Any:
    """Define `robustmdiff::<name>` and return the operator; `flops` takes the op's own arguments.

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
    flop_formulas.register(
        operator.overloadpacket, lambda *args, out_val=None, **kwargs: flops(*args, **kwargs)
    )
    return operator


def implement(name: str, function: Callable[..., Any]) -> None:
    """Give `robustmdiff::<name>` an implementation in torch, for every device."""
    torch.library.impl(f"{NAMESPACE}::{name}", "CompositeExplicitAutograd", function)


def differentiable(
    forward: Callable[..., Any], backward: Callable[..., Any], tensors: int, wrt: tuple[int, ...]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function `forward(*inputs) -> (out, lse)` with a gradient of `out`.

    The first `tensors` inputs are Tensor or None, the rest are plain settings.
    `backward(grad_out, out, lse, *inputs)` returns one gradient for each position in `wrt`; it is not
    called where nothing flows back to `out`. Differentiating twice raises.
    """

    def gradients(
        saved: tuple[Any, ...], settings: tuple[Any, ...], grad_out: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *inputs, out, lse = saved
        slots: list[Tensor | None] = [None] * (tensors + len(settings))
        if grad_out is None:
            return tuple(slots)
        found = _Once.apply if torch.is_grad_enabled() else backward
        given = found(grad_out, out, lse, *inputs, *settings)
        for position, gradient in zip(wrt, given, strict=True):
            slots[position] = gradient if inputs[position] is not None else None
        return tuple(slots)

    class _Once(torch.autograd.Function):
        """The backward pass while a graph of it is recorded: it runs, but has no gradient."""

        @staticmethod
        def forward(*args: Any) -> Any:
            return backward(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(f"{forward} cannot be differentiated twice; its backward has no gradient")

    class _Classic(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
            out, lse = forward(*inputs)
            ctx.save_for_backward(*inputs[:tensors], out, lse)
            ctx.settings = inputs[tensors:]
            ctx.mark_non_differentiable(lse)
            ctx.set_materialize_grads(False)
            return out, lse

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor | None, _: Any) -> tuple[Any, ...]:
            return gradients(ctx.saved_tensors, ctx.settings, grad_out)

    apply = without_its_python(_Classic)

    class _Functorch(torch.autograd.Function):
        """The same for torch.func: it needs setup_context, which costs five times as much a call."""

        @staticmethod
        def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
            return forward(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs[:tensors], *output)
            ctx.settings = inputs[tensors:]
            ctx.mark_non_differentiable(output[1])
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor | None, _: Any) -> tuple[Any, ...]:
            return gradients(ctx.saved_tensors, ctx.settings, grad_out)

    def run(*inputs: Any) -> tuple[Tensor, Tensor]:
        if torch._C._are_functorch_transforms_active():
            return _Functorch.apply(*inputs)
        if torch.is_grad_enabled():
            for i in wrt:
                if inputs[i] is not None and inputs[i].requires_grad:
                    return _Classic.apply(*_distinct(inputs)) if is_compiling() else apply(*inputs)
        return forward(*inputs)

    return run


def without_its_python(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` outside torch.func and torch.compile, without what torch does in Python for those:
    a third of what the whole costs."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def _distinct(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dynamo wants every tensor once; self-attention gives its segments twice."""
    found: list[Any] = []
    for x in inputs:
        twice = isinstance(x, Tensor) and any(x is y for y in found)
        found.append(x.view_as(x) if twice else x)
    return tuple(found)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on for their device, else unchanged."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) if tensor.dtype != torch.float64 else tensor for tensor in tensors)
