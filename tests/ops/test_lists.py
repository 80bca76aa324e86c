"""An op that has kernels is in every list of ops that is kept by hand."""

from __future__ import annotations

import torch

from benchmarks.test_overhead import calls
from robustmdiff.ops.dispatch import Op
from tests.device.conftest import WORKLOADS
from tools.benchmark_tables import OPS
from tools.ledger.triton import SITUATIONS

BESIDE = {"ddpm_noise", "ddpm_noise_loss", "knowledge_top"}  # part of an op that is in the lists
WITH_KERNELS = {
    name for name, op in Op.registry.items() if {b.name for b in op.backends} & {"native", "triton"}
} - BESIDE
ON_A_GPU = {name for name in WITH_KERNELS if "triton" in {b.name for b in Op.registry[name].backends}}


def test_it_has_a_workload_for_a_gpu():
    assert set(WORKLOADS) == ON_A_GPU


def test_what_a_call_of_it_costs_is_measured():
    """A chain is many calls in one: what it costs is its benchmark."""
    assert set(calls("cpu", torch.float32)) == WITH_KERNELS - {"chain"}


def test_its_benchmarks_become_tables():
    assert set(OPS) == WITH_KERNELS


def test_its_kernels_are_in_the_ledger():
    rooms = tuple(situations.__name__ for situations in SITUATIONS)
    assert {op for op in ON_A_GPU if op.startswith(rooms)} == ON_A_GPU
