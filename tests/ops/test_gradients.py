"""Every op with a gradient: torch.autograd.gradcheck with its defaults, and a gradient that is undefined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from robustmdiff import use_backend
from robustmdiff.ops import (
    Graph,
    chain,
    ddpm_noise,
    ddpm_noise_loss,
    ddpm_step,
    graph_attention,
    knowledge_attention,
    masked_attention,
)
from robustmdiff.ops.dispatch import Op
from robustmdiff.ops.philox import philox_key
from robustmdiff.ops.triton_support import INTERPRETED
from robustmdiff.testing import DEVICE, draw
from tests.ops.chain.networks import FEATURES, network_of, to

SEGMENTS = torch.tensor([[[0, 2], [2, 0]], [[3, 1], [4, 1]]], dtype=torch.int32, device=DEVICE)
GRAPH = Graph.from_edges(
    torch.tensor([0, 1, 3, 3]), torch.tensor([1, 2, 2, 0]), 4, torch.tensor([0, 1, 1, 2])
).to(DEVICE)
NO_GRAPH = Graph.from_edges(torch.empty(0).long(), torch.empty(0).long(), 0, torch.empty(0).long()).to(DEVICE)
STEP, TABLE = torch.tensor([1, 0, 2], device=DEVICE), 0.2 + torch.rand(3, 8, device=DEVICE) / 2
KEY = philox_key(3, 5, device=DEVICE)


@dataclass
class Call:
    """One call of an op: `run(*tensors)`; where some gradients are torch's alone, `fused` has the others."""

    op: str
    name: str
    run: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    only_torch: int = field(default=0)  # how many of the last tensors have a gradient on torch only


def masked(exclude_own: bool = False) -> Callable[..., Tensor]:
    return lambda q, k, v, affinity=None: masked_attention(
        q, k, v, SEGMENTS, SEGMENTS, affinity=affinity, exclude_own=exclude_own
    )


def related(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: Graph = GRAPH) -> Tensor:
    return graph_attention(q, k, v, graph, relation_bias=bias)


def step(sample: Tensor, output: Tensor, uncond: Tensor, variance: Tensor, *guidance: Tensor) -> Tensor:
    return ddpm_step(
        output, sample, STEP, TABLE, uncond=uncond, guidance=guidance[0] if guidance else 1.7,
        variance_output=variance, variance="learned_range", key=KEY,
    )  # fmt: skip


def chained(x: Tensor | None = None, told: Tensor | None = None) -> Tensor:
    """With the gradient of x and told; every other one is of the same kind."""
    x = torch.ones(2, 3, device=DEVICE) if x is None else x
    told = x[:, :2].detach() if told is None else told
    weights, time = to(network_of(3, 2, 16, 16, 1), x.dtype), draw(2, FEATURES, seed=2).to(x.dtype)
    return chain(
        x, told, weights, time, torch.rand(2, 6, generator=torch.Generator().manual_seed(0)), key=KEY
    )


CALLS = [
    Call("masked_attention", "plain", masked(), tuple(draw(5, 2, 2, seed=i) for i in range(3))),
    Call(
        "masked_attention",
        "affinity",
        masked(exclude_own=True),
        (draw(5, 2, 2, seed=0), draw(5, 1, 2, seed=1), draw(5, 1, 2, seed=2), draw(2, 2, 2, seed=3)),
    ),
    Call(
        "knowledge_attention",
        "plain",
        lambda q, K: knowledge_attention(q, K, scale=0.6),
        (draw(2, 2, 3, seed=0), draw(4, 3, seed=1)),
    ),
    Call(
        "knowledge_attention",
        "prior",
        lambda q, K, prior: knowledge_attention(
            q, K, prior.masked_fill(torch.arange(4, device=prior.device) == 2, -torch.inf), scale=0.6
        ),
        (draw(2, 2, 3, seed=0), draw(4, 3, seed=1), draw(4, seed=2)),
    ),
    Call(
        "graph_attention",
        "plain",
        lambda q, k, v: graph_attention(q, k, v, GRAPH),
        tuple(draw(4, 2, 2, seed=i) for i in range(3)),
    ),
    Call(
        "graph_attention",
        "relations",
        related,
        (*(draw(4, 2, 2, seed=i) for i in range(3)), draw(2, 3, seed=3)),
    ),
    Call(
        "graph_attention",
        "no-nodes",
        lambda *x: related(*x, NO_GRAPH),
        (*(draw(0, 2, 2, seed=i) for i in range(3)), draw(2, 3, seed=3)),
    ),
    Call(
        "ddpm_step",
        "guided",
        step,
        (*(draw(3, 2, seed=i) for i in range(4)), draw(3, seed=4)),
        only_torch=1,
    ),
    Call("chain", "one-block", chained, (draw(2, 3, seed=0), draw(2, 2, seed=1)), only_torch=2),
    Call("ddpm_noise", "key", lambda x: ddpm_noise(x, STEP, TABLE, key=KEY), (draw(3, 2, seed=0),)),
    Call(
        "ddpm_noise_loss",
        "key",
        lambda prediction, x=None: ddpm_noise_loss(
            prediction, torch.ones_like(prediction) if x is None else x, STEP, TABLE, key=KEY
        ),
        (draw(3, 2, seed=0), draw(3, 2, seed=1)),
        only_torch=1,
    ),
]


def on_backends(names: Callable[[str], bool]) -> list:
    return [
        pytest.param(call, backend.name, id=f"{call.op}-{call.name}-{backend.name}")
        for call in CALLS
        for backend in Op.registry[call.op].backends
        if names(backend.name) and (backend.name == "triton") == INTERPRETED
    ]


def test_every_op_is_here():
    without = {"knowledge_top"}  # an explanation, with no gradient
    assert {call.op for call in CALLS} == set(Op.registry) - without


@pytest.mark.parametrize(("call", "backend"), on_backends({"torch", "definition"}.__contains__))
def test_gradcheck_passes_with_its_defaults(call, backend):
    """In float64, which no kernel takes."""
    tensors = tuple(x.to(DEVICE).requires_grad_() for x in call.tensors)
    with use_backend(**{call.op: backend}):
        assert torch.autograd.gradcheck(call.run, tensors)


class Stop(torch.autograd.Function):
    """Nothing flows back: the gradient that it passes on is undefined."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, grad):
        return None


def ways() -> list:
    """Eager and under torch.func on every backend; compiled on one, being the bridge's."""
    found = []
    for call, backend in (param.values for param in on_backends(lambda _: True)):
        if backend != "torch" and call.only_torch == len(call.tensors):
            continue  # it declines where a gradient is asked for
        more = ("compiled",) if backend == "native" else ()
        for way in ("eager", "torch.func", *more):
            found.append(pytest.param(call, backend, way, id=f"{call.op}-{call.name}-{backend}-{way}"))
    return found


@pytest.mark.parametrize(("call", "backend", "way"), ways())
def test_an_undefined_gradient_gives_none(call, backend, way):
    tensors = call.tensors[: len(call.tensors) - (call.only_torch if backend != "torch" else 0)]
    tensors = tuple(x.to(DEVICE, torch.float32).requires_grad_() for x in tensors)
    w = torch.ones(1, device=DEVICE, requires_grad=True)

    def loss(*inputs: Tensor) -> Tensor:
        *tensors, w = inputs
        return Stop.apply(run(*tensors)).sum() + 2 * w.sum()

    run = call.run
    if way == "compiled":
        torch.compiler.reset()
        run = torch.compile(call.run, fullgraph=True, dynamic=True, backend="aot_eager")
    with use_backend(**{call.op: backend}):
        if way == "torch.func":
            found = torch.func.grad(loss, argnums=tuple(range(len(tensors) + 1)))(*tensors, w)
        else:
            found = torch.autograd.grad(loss(*tensors, w), (*tensors, w), allow_unused=True)
    *found, of_w = found
    assert of_w == 2
    assert all(g is None or not g.any() for g in found)
