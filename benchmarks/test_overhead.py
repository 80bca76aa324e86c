"""What a call costs before any work: every op on 64 elements, beside `x + 1` in the same rounds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.comparison import STEADY, Row, milliseconds
from benchmarks.measure import call_turn, measure, movement, ratio, significant
from benchmarks.peers.ddpm_step import schedule
from robustmdiff import explain
from robustmdiff.ops import (
    Graph,
    ddpm_step,
    ddpm_table,
    graph_attention,
    knowledge_attention,
    masked_attention,
    philox_key,
)
from robustmdiff.ops.dispatch import Op

CALL = "call"


def calls(device: str, dtype: torch.dtype) -> dict[str, tuple[Callable[..., Tensor], tuple, dict]]:
    """Each op with arguments of 64 elements."""

    def x(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    segments = torch.tensor([[[0, 2], [2, 2]]], dtype=torch.int32, device=device)
    ring = torch.arange(4)
    graph = Graph.from_edges(ring, ring.roll(1), 4).to(device)
    table, key = ddpm_table(schedule()).to(device), philox_key(1).to(device)
    step = torch.zeros(4, dtype=torch.int64, device=device)
    return {
        "masked_attention": (
            masked_attention,
            (x(4, 1, 16), x(4, 1, 16), x(4, 1, 16), segments, segments),
            {},
        ),
        "knowledge_attention": (knowledge_attention, (x(4, 1, 16), x(4, 16)), {"scale": 0.25}),
        "graph_attention": (graph_attention, (x(4, 1, 16), x(4, 1, 16), x(4, 1, 16), graph), {}),
        "ddpm_step": (ddpm_step, (x(4, 16), x(4, 16), step, table), {"key": key}),
    }


def bare(op: str, args: tuple, settings: dict) -> tuple[Callable[..., object], tuple]:
    """The native operator that a call ends in, and the call's arguments as it takes them."""
    operator = getattr(torch.ops.robustmdiff, op if op == "ddpm_step" else f"{op}_fwd").default
    takes = len(operator._schema.arguments)
    return operator, Op.registry[op].arguments(*args, **settings)[:takes]


def test_call_overhead(record, pytestconfig, device, dtype):
    x, out = torch.randn(64, device=device, dtype=dtype), torch.empty(64, device=device, dtype=dtype)
    turns = {"x + 1": lambda: x + 1, "torch.add(x, 1, out=)": lambda: torch.add(x, 1, out=out)}
    backend = {}
    for op, (call, args, settings) in calls(device, dtype).items():
        backend[op] = explain(op, *args, **settings).chosen
        turns[f"{op}, no gradient"] = partial(call, *args, **settings)
        if "out" in inspect.signature(call).parameters:
            turns[f"{op}, out="] = partial(call, *args, **settings, out=torch.empty_like(args[0]))
        if backend[op] == "native":
            operator, passed = bare(op, args, settings)
            turns[f"{op}, the bare operator"] = partial(operator, *passed)
        recorded = (args[0].detach().requires_grad_(), *args[1:])
        turns[f"{op}, gradient recorded"] = partial(call, *recorded, **settings)
    samples = measure(
        {name: call_turn(call, CALL, device) for name, call in turns.items()},
        0.5 * pytestconfig.getoption("--seconds"),
        rounds=(10, 200),
    )
    add = samples["x + 1"][CALL]
    rows: list[Row] = []
    for name in list(turns)[2:]:
        op, _, how = name.partition(", ")
        spent = samples[name][CALL]
        rows.append(
            {
                "op": "call_overhead",
                "workload": f"64 elements, {how}",
                "dtype": str(dtype).removeprefix("torch."),
                "pass": "forward",
                "candidate": f"{op}, {backend[op]}",
                "ours": True,
                "ms": milliseconds(spent),
                "prepare_ms": None,
                "times_limit": ratio(spent, add),
                "limit": "x + 1",
                "limit_ms": milliseconds(add),
                "limit_moved": significant(movement(add), 2),
                "rounds": len(spent),
                "verdict": "measured" if movement(add) <= STEADY else "inconclusive",
            }
        )
    record(rows)
