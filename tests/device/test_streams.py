"""On a GPU nothing waits for the host: no synchronisation, CUDA graphs, torch.compile, other streams."""

from __future__ import annotations

import os

import pytest
import torch

from robustmdiff import use_backend

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")

DTYPE = torch.bfloat16  # which every kernel takes

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA: RMD_TEST_DEVICE is not cuda")


@pytest.fixture(autouse=True)
def kernels_only(backend):
    if backend == "torch":
        pytest.skip("the torch backends may read segments on the host")


def test_no_call_waits_for_the_gpu(workload, backend, call):
    tensors = workload.at(DTYPE)
    call(tensors)  # compilation and caches may
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = call(tensors)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert all(torch.isfinite(x).all() for x in found)


def test_a_graph_replays_with_new_values_on_another_stream(workload, backend, call):
    """Capture, change the inputs in place, replay: the eager result for the new inputs."""
    tensors = {name: x.detach() for name, x in workload.at(DTYPE).items()}
    with use_backend(**{workload.op: backend}), torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            workload.run(**tensors)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            out = workload.run(**tensors)
        for i, x in enumerate(tensors.values()):
            x.copy_(x.flip(0) + i)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, workload.run(**tensors))


def test_compiled_code_runs_on_another_stream(workload, backend, call):
    tensors = {name: x.detach() for name, x in workload.at(DTYPE).items()}
    with use_backend(**{workload.op: backend}), torch.no_grad():
        expected = workload.run(**tensors)
        compiled = torch.compile(workload.run, fullgraph=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            out = compiled(**tensors)
        torch.cuda.synchronize()
    assert torch.equal(out, expected)
