"""What the attention ops have in common: their operators, shape rules, cost and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from robustmdiff.ops.bridge import differentiable
from robustmdiff.ops.registration import define, implement, inputs_of, lse_dtype, tensors_of


class AttentionOperators(NamedTuple):
    """Those of one backend."""

    forward_op: Any
    backward_op: Any
    run: Callable[[Any], tuple[Tensor, Tensor]]  # of the op's arguments, with a gradient of the first output


class AttentionSchema(NamedTuple):
    """(inputs) -> (out, lse), and back (grad_out, out, lse, inputs) -> a gradient for each name in wrt.

    The inputs are the first fields of the op's arguments, q the first of them; out is like q, lse [rows,
    heads]. A gradient of what is None is empty. The backward pass costs 5 / 2 of the forward pass: it
    makes the scores again, and two products of each of the two.
    """

    op: str
    arguments: type[Any]
    fields: tuple[str, ...]
    wrt: tuple[str, ...]
    flops: Callable[[Any], int]  # of the arguments, forward

    def operators(
        self,
        suffix: str,
        forward: Callable[..., tuple[Tensor, Tensor]] | None = None,
        backward: Callable[..., tuple[Tensor, ...]] | None = None,
    ) -> AttentionOperators:
        """Define the operators `<op>_fwd<suffix>` and `<op>_bwd<suffix>` of one backend.

        forward(a) and backward(grad_out, out, lse, a) implement them; the native backend, of suffix "",
        registers its own.
        """
        inputs, arguments, count = inputs_of(self.arguments, self.fields), self.arguments, len(self.fields)
        wrt = tuple(self.fields.index(name) for name in self.wrt)

        def fake_forward(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
            return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype))

        def fake_backward(grad_out: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
            like = (inputs[i] for i in wrt)
            return tuple(out.new_empty(0) if x is None else x.new_empty(x.shape) for x in like)

        forward_op = define(
            f"{self.op}_fwd{suffix}",
            f"({inputs}) -> (Tensor out, Tensor lse)",
            fake_forward,
            lambda *inputs: self.flops(arguments(*inputs)),
        )
        backward_op = define(
            f"{self.op}_bwd{suffix}",
            f"(Tensor grad_out, Tensor out, Tensor lse, {inputs}) -> ({', '.join(['Tensor'] * len(wrt))})",
            fake_backward,
            lambda grad_out, out, lse, *inputs: self.flops(arguments(*inputs)) * 5 // 2,
        )
        if forward is not None and backward is not None:
            implement(f"{self.op}_fwd{suffix}", lambda *inputs: forward(arguments(*inputs)))
            implement(
                f"{self.op}_bwd{suffix}",
                lambda grad_out, out, lse, *inputs: backward(grad_out, out, lse, arguments(*inputs)),
            )
        bridge = differentiable(
            self.op,
            forward_op,
            backward_op,
            tensors=tuple(i for i in tensors_of(arguments) if i < count),
            wrt=wrt,
            outputs=(True, False),
            keep_outputs=True,
        )

        def run(a: Any) -> Any:
            return bridge(*a[:count])

        return AttentionOperators(forward_op, backward_op, run)
