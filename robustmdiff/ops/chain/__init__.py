"""A whole chain of a sampler around a residual network as one call.

from robustmdiff.ops import chain

x = chain(x, told, weights, time, table, key=key)   # x [rows, D], noise in, a draw out
"""

from __future__ import annotations

from torch import Tensor

from robustmdiff.ops.chain import definition, graph_backend, native
from robustmdiff.ops.chain.arguments import (
    BlockWeights,
    LinearWeights,
    NetworkWeights,
    Recurrence,
    arguments,
)
from robustmdiff.ops.dispatch import Backend, Op

__all__ = ["BlockWeights", "LinearWeights", "NetworkWeights", "Recurrence", "chain"]


def chain(
    x: Tensor,
    told: Tensor,
    weights: NetworkWeights,
    time: Tensor,
    table: Tensor,
    *,
    key: Tensor | None = None,
    row_ids: Tensor | None = None,
) -> Tensor:
    """x_E [rows, D] of the recurrence around the network F, from x = x_0:

        o_e     = F(input_e x_e; time_e, told)
        x_{e+1} = x_e-weighted sum of x_e, o_e, x_{e-1}, o_{e-1} and noise z, by row e of the table

    x        [rows, D], float32, float64, bfloat16 or float16; what everything else but the table is.
    told     [rows, f], what the network is told of each row.
    weights  of the network; its first layer takes told and time, side by side.
    time     [E, features], what the network is told of each evaluation.
    table    float32 [E, 6] on the CPU, the columns of `Recurrence`.
    key      int64 [2] (`philox_key`); may be left out where nothing is drawn. Evaluation e draws what
             `ddpm_step` draws at step e.
    row_ids  int64 [rows], whose stream a row draws from; default 0 to rows - 1.

    The samplers DDPM, DDIM, DPM-Solver++(2M), Euler and Heun are such tables:
    robustmdiff.diffusion.recurrence. Definition: robustmdiff.ops.chain.definition. Errors: TypeError for
    dtypes and devices, ValueError for shapes.
    """
    result: Tensor = OP(arguments(x, told, weights, time, table, key=key, row_ids=row_ids))
    return result


OP = Op(
    "chain",
    arguments,
    (
        Backend("native", native.run, native.reasons),
        Backend("graph", graph_backend.run, graph_backend.reasons),
        Backend("torch", definition.chain),
    ),
)
