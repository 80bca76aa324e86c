"""Every candidate of every op, peers included, computes the op or says why it cannot."""

from __future__ import annotations

import pytest
import torch

from benchmarks import graphs
from benchmarks.candidates import Judge, attempt
from benchmarks.peers import ddpm_step, graph_attention, knowledge_attention, masked_attention
from robustmdiff.ops import ddpm_table

SLOW = ("torch.compile", "FlexAttention")  # compile for seconds; the suite checks them where it times them
CPU, F32 = "cpu", torch.float32
LENGTHS = torch.tensor([[2, 3, 0], [0, 3, 4], [2, 0, 0], [0, 0, 0], [0, 3, 4]])
EDGES = graphs.power_law(20, 60)


def workloads():
    masked = masked_attention.patients("small", LENGTHS, (2, 3, 4), 2, 16, CPU, F32)
    knowledge = knowledge_attention.queries("small", 3, 11, 16, CPU, F32)
    graph = graph_attention.nodes("small", 20, EDGES.source, EDGES.target, 2, 16, CPU, F32)
    for module, workload in (
        (masked_attention, masked),
        (knowledge_attention, knowledge),
        (graph_attention, graph),
    ):
        for name, make in module.MAKERS.items():
            if not name.startswith(SLOW):
                yield pytest.param(workload, name, make, id=f"{workload.op}-{name}")


@pytest.mark.parametrize(("workload", "name", "make"), list(workloads()))
def test_a_candidate_is_right_or_says_why_not(workload, name, make):
    passes, refusal = attempt(name, lambda: make(workload), workload.tensors)
    if refusal is not None:
        assert ": " in refusal.reason
    if passes:
        Judge(workload, gradients=len(passes) > 1).check(make(workload), gradients=len(passes) > 1)
    if name == "ours, torch":
        assert len(passes) == (1 if make(workload).forward_only else 3)


@pytest.mark.parametrize("name", [name for name in ddpm_step.MAKERS if not name.startswith(SLOW)])
def test_a_step_is_right_or_says_why_not(name):
    workload = ddpm_step.workload((8, 512), CPU, F32)
    passes, refusal = attempt(name, lambda: ddpm_step.MAKERS[name](workload), workload.tensors)
    if passes:
        ddpm_step.check(workload)(ddpm_step.MAKERS[name](workload), False)
    else:
        assert refusal is not None
        assert name.startswith("ours")


def test_the_step_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler()
    scheduler.set_timesteps(ddpm_step.STEPS)
    assert torch.equal(ddpm_table(ddpm_step.schedule()), ddpm_table(scheduler))


def test_masked_attention_needs_what_is_present():
    half, whole = (
        masked_attention.patients("x", lengths, (2, 3, 4), 1, 4, CPU, F32)
        for lengths in (LENGTHS, torch.tensor([[2, 3, 4]] * 5))
    )
    assert half.need["forward"]["matmul"] == 4 * 4 * (25 + 49 + 4 + 49)
    assert whole.need["forward"]["matmul"] == 4 * 4 * 5 * 81
    x = half.tensors["q"]
    assert torch.equal(half.unpad(half.pad(x)), x)


def test_graphs_have_as_many_edges_as_asked_and_none_twice():
    for edges in (graphs.uniform(50, 300), graphs.power_law(200, 300)):
        pairs = set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
        assert len(pairs) == len(edges.source) == 300
    degrees = torch.bincount(graphs.power_law(2000, 8000).target)
    assert degrees.max() > 100
