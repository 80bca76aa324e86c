"""graph_attention in Triton: online softmax over the in-edges of a node, its gradient along the transpose.

A program works on a few items. An item is a row of the graph (a node and its in-edges; in the transpose
its out-edges) or, of a row longer than SPLIT, a piece of SPLIT edges counted from the row's start. Which
rows are long is decided on the device, so a launch needs nothing but shapes: among SPLIT neighbouring edges
a row starts one piece at most, and two long rows at most start any, so 2 ceil(edges / SPLIT) places hold all
pieces. `_combine` and `_add_up` put the pieces of a row together in order. Where a row stands among the
others changes no bit of it.

Loops run to the longest item of the program and have no branch inside, which would silently cost the
software pipeline; what a shorter item lacks is masked and not read. Softmax and sums are float32, in one
order, without atomics.
"""

from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from robustmdiff.kernels.graph_attention.backward_kernels import (
    _add_up,
    _backward_sources,
    _backward_targets,
    _sum_relations,
)
from robustmdiff.kernels.graph_attention.forward_kernels import _combine, _forward
from robustmdiff.kernels.launch import INTERPRETED, OPTIONS, Config, checking, of_architecture, on_device_of

if TYPE_CHECKING:
    from robustmdiff.ops.graph_attention.arguments import Arguments

SPLIT = 512  # edges; the same everywhere, as it decides how sums are grouped


# Nodes and edges of a tile by the width that a head is padded to: 8 gathered values a thread and tensor,
# which keeps registers low enough for 5 to 8 warps a scheduler. Not timed on a GPU yet, so every
# architecture has the same.
TILES = {
    16: Config(8, 4, 2, 2),
    32: Config(4, 4, 2, 2),
    64: Config(4, 4, 4, 2),
    128: Config(2, 4, 4, 2),
    256: Config(1, 4, 4, 2),
}
CONFIGS = {80: TILES, 90: TILES, 120: TILES, None: TILES}
INTERPRETER = Config(16, 8, 1, 1)  # few programs
CHUNK = 4096  # edges of one sum over relations


class _Launch:
    """The sizes of one call that all its kernels share."""

    def __init__(self, a: "Arguments") -> None:
        self.nodes, self.heads, self.D = a.q.shape
        self.width = max(16, triton.next_power_of_2(self.D))
        self.edges = edges = a.col.shape[0]
        self.config = INTERPRETER if INTERPRETED else of_architecture(CONFIGS)[self.width]
        self.relations = 0 if a.relation_bias is None else a.relation_bias.shape[1]
        self.tiles = triton.cdiv(edges, SPLIT) if edges > SPLIT else 0
        # In whole programs, so that a program holds pieces or rows and never both.
        self.pieces = triton.cdiv(2 * self.tiles, self.config.rows) * self.config.rows
        self.programs = triton.cdiv(self.pieces + self.nodes, self.config.rows) * self.heads
        self.steps = self.nodes.bit_length()
        self.head = {"D": self.D, "WIDTH": self.width, "SPLIT": SPLIT}

    def places(self, like: Tensor, *shape: int) -> Tensor:
        return like.new_empty(self.pieces, self.heads, *shape, dtype=torch.float32)

    def items(self, kernel: Any, *tensors: Tensor | None) -> None:
        kernel[(self.programs,)](
            *tensors, self.nodes, self.edges, self.heads, self.relations, self.pieces, self.steps,
            self.D**-0.5,
            **self.head, ROWS=self.config.rows, EDGES=self.config.columns, STAGES=self.config.stages,
            BIAS=self.relations > 0, CHECK=checking(),
            num_warps=self.config.warps, debug=checking(), **OPTIONS,
        )  # fmt: skip

    def together(self, kernel: Any, *tensors: Tensor) -> None:
        """After the items: the rows that were split, if a row can have been."""
        if self.tiles:
            kernel[(self.tiles * self.heads,)](
                *tensors, self.nodes, self.edges, self.heads, self.steps, **self.head, num_warps=1, **OPTIONS
            )


def _packed(*tensors: Tensor | None) -> Any:
    return tuple(None if x is None else x.contiguous() for x in tensors)


def forward(a: "Arguments") -> tuple[Tensor, Tensor]:
    """out [n, H, D] and its log-sum-exp float32 [n, H]; arguments as in the op's definition."""
    out, lse = (
        torch.empty_like(a.q, memory_format=torch.contiguous_format),
        a.q.new_empty(a.q.shape[:2], dtype=torch.float32),
    )
    if out.numel() == 0:
        return out, lse
    inputs = _packed(a.q, a.k, a.v, a.rowptr, a.col, a.relation, a.relation_bias)
    with on_device_of(a.q):
        launch = _Launch(a)
        out_pieces, lse_pieces = launch.places(a.q, launch.D), launch.places(a.q)
        launch.items(_forward, *inputs, out, lse, out_pieces, lse_pieces)
        launch.together(_combine, out_pieces, lse_pieces, inputs[3], out, lse)
    return out, lse


def backward(grad: Tensor, out: Tensor, lse: Tensor, a: "Arguments") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and of the relations' bias (empty where there is none)."""
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (a.q, a.k, a.v))
    bias = a.q.new_zeros(0) if a.relation_bias is None else a.relation_bias
    dbias = torch.zeros_like(bias, memory_format=torch.contiguous_format)
    if dq.numel() == 0:
        return dq, dk, dv, dbias
    grad, out, lse, *inputs = _packed(grad, out, lse, *a)
    a = a._make(inputs)
    with on_device_of(a.q):
        launch = _Launch(a)
        delta, dscores = torch.empty_like(lse), None
        if launch.relations:
            dscores = lse.new_empty(launch.heads, launch.edges)
        pieces, more = launch.places(a.q, launch.D), launch.places(a.q, launch.D)
        launch.items(
            _backward_targets,
            grad, out, lse, *a[:6], a.relation_bias, dq, pieces, delta, dscores,
        )  # fmt: skip
        launch.together(_add_up, pieces, a.rowptr, dq)
        launch.items(
            _backward_sources,
            grad, lse, delta, *a[:3], a.out_rowptr, a.out_target, a.out_edge, a.relation, a.relation_bias,
            dk, dv, pieces, more,
        )  # fmt: skip
        launch.together(_add_up, pieces, a.out_rowptr, dk)
        launch.together(_add_up, more, a.out_rowptr, dv)
        if dscores is not None and launch.edges:
            dbias = _relation_sums(launch, dscores, a.relation).to(bias.dtype)
    return dq, dk, dv, dbias


def _relation_sums(launch: _Launch, dscores: Tensor, relation: Tensor) -> Tensor:
    """[H, relations], in two stages, so that the sum has one order."""
    chunks, kinds = triton.cdiv(launch.edges, CHUNK), min(64, triton.next_power_of_2(launch.relations))
    sums = dscores.new_empty(chunks, launch.heads, launch.relations)
    _sum_relations[(chunks, launch.heads, triton.cdiv(launch.relations, kinds))](
        dscores, relation, sums, launch.edges, launch.heads, launch.relations,
        CHUNK=CHUNK, EDGES=64, KINDS=kinds, CHECK=checking(), num_warps=4, debug=checking(), **OPTIONS,
    )  # fmt: skip
    return sums.sum(0)
