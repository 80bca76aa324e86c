"""The gradient of an op: the one place where a pair (forward, backward) enters autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling


def differentiable(
    op: str,
    forward: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., tuple[Tensor | None, ...]],
    *,
    tensors: tuple[int, ...],
    wrt: tuple[int, ...],
    outputs: tuple[bool, ...] = (True,),
    keep_outputs: bool = False,
) -> Callable[..., tuple[Tensor, ...]]:
    """The function `forward(*inputs)`, a tuple of tensors, with a gradient to the inputs at `wrt`.

    op            its name, for the error where it is differentiated twice.
    tensors       where the inputs are Tensor or None; the others are plain settings.
    backward      `backward(*grads, *inputs)`, or `backward(*grads, *outputs, *inputs)` with keep_outputs:
                  one gradient per position in `wrt`. `grads` are those of the outputs that have one, None
                  where nothing flows back; where nothing flows back to any, it is not called.
    outputs       for each output of `forward` whether it has a gradient.
    keep_outputs  keep the outputs for the backward pass, as well as the inputs.

    An input that is None gets no gradient. Differentiating twice raises RuntimeError.
    """
    no_gradient = tuple(i for i, has in enumerate(outputs) if not has)

    class Once(torch.autograd.Function):
        """The backward pass while a graph of it is recorded: it runs, but has no gradient."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return backward(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(f"{op} cannot be differentiated twice: this backend has no second derivative")

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        settings, found = list(inputs), list(output if keep_outputs else ())
        for i in tensors:
            settings[i] = None
        ctx.settings = settings
        ctx.save_for_backward(*[inputs[i] for i in tensors], *found)
        ctx.mark_non_differentiable(*[output[i] for i in no_gradient])
        ctx.set_materialize_grads(False)

    def gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, inputs = ctx.saved_tensors, list(ctx.settings)
        slots: list[Tensor | None] = [None] * len(inputs)
        given = [g for g, has in zip(grads, outputs, strict=True) if has]
        if all(g is None for g in given):
            return tuple(slots)
        for i, x in zip(tensors, saved, strict=False):
            inputs[i] = x
        run = Once.apply if torch.is_grad_enabled() else backward
        for i, gradient in zip(wrt, run(*given, *saved[len(tensors) :], *inputs), strict=True):
            slots[i] = gradient if inputs[i] is not None else None
        return tuple(slots)

    class Classic(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
            found = forward(*inputs)
            keep(ctx, inputs, found)
            return found

        backward = staticmethod(gradients)

    class Functorch(torch.autograd.Function):
        """The same for torch.func: it needs setup_context, which costs five times as much a call."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Any) -> tuple[Tensor, ...]:
            return forward(*inputs)

        setup_context = staticmethod(keep)
        backward = staticmethod(gradients)

    # Outside torch.func and torch.compile, without what torch does in Python for those: a third of the cost.
    apply = super(torch.autograd.Function, Classic).apply

    def run(*inputs: Any) -> tuple[Tensor, ...]:
        if torch._C._are_functorch_transforms_active():
            return Functorch.apply(*inputs)
        if torch.is_grad_enabled():
            for i in wrt:
                if inputs[i] is not None and inputs[i].requires_grad:
                    return Classic.apply(*_distinct(inputs)) if is_compiling() else apply(*inputs)
        return forward(*inputs)

    return run


def _distinct(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dynamo wants every tensor once; self-attention gives its segments twice."""
    found: list[Any] = []
    for x in inputs:
        twice = isinstance(x, Tensor) and any(x is y for y in found)
        found.append(x.view_as(x) if twice else x)
    return tuple(found)
