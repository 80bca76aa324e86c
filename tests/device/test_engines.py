"""A TensorRT engine where there is a GPU: does it load, what does it say, how fast, and as one CUDA graph.

Compiled, not run. The engine is the portable one, of the compute capabilities of `export.tensorrt`: of Hopper
(9.0), which is none of them, the first test tells whether it loads all the same.
"""

from __future__ import annotations

import os
import statistics
import time
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from robustmdiff.export.parity import TOLERANCE, compare
from robustmdiff.export.tensorrt import PACKAGES, build_engine
from robustmdiff.runtime import Artefact
from tests.export.conftest import with_draws  # noqa: F401
from tests.export.tensorrt_engine import TensorRTEngine

DEVICE = os.environ.get("RMD_TEST_DEVICE", "cpu")
pytestmark = [
    pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA: RMD_TEST_DEVICE is not cuda"),
    pytest.mark.skipif(not any(map(find_spec, PACKAGES)), reason="no TensorRT is installed"),
]


@pytest.fixture(scope="module")
def content(with_draws, tmp_path_factory) -> bytes:  # noqa: F811
    path, config = tmp_path_factory.mktemp("engine") / "engine", with_draws.predictor.run.model.config
    build_engine(with_draws.folder / "model.onnx", path, config.max_tokens, config.draws)
    return path.read_bytes()


@pytest.fixture(scope="module")
def engine(content) -> TensorRTEngine:
    trt = import_module(next(name for name in PACKAGES if find_spec(name)))
    return TensorRTEngine(trt, content, DEVICE)


@pytest.fixture(scope="module")
def artefact(with_draws, engine) -> Artefact:  # noqa: F811
    ours = with_draws.artefact
    return Artefact(ours.manifest, engine, ours.collator, ours.noise)


def arrays_of(artefact: Artefact, patients) -> dict:
    return artefact.inputs(artefact.collator(patients))


def test_the_portable_engine_loads(engine, content, record_property):
    record_property("capability", ".".join(map(str, torch.cuda.get_device_capability())))
    record_property("bytes", len(content))
    assert engine.context is not None


def test_it_says_what_the_run_says(with_draws, artefact, record_property):  # noqa: F811
    parity = compare(with_draws.predictor, artefact, with_draws.patients)
    record_property("largest", parity.largest)
    assert parity.largest <= TOLERANCE
    assert parity.sets == 0


@pytest.mark.parametrize("size", [1, 64])
def test_milliseconds(with_draws, artefact, engine, size, record_property):  # noqa: F811
    """Of the engine alone, its inputs on the GPU: the median of 20 calls, after 5."""
    patients = (with_draws.patients * size)[:size]
    inputs = engine.sent(arrays_of(artefact, patients))
    outputs = engine.bound(inputs)
    spent = []
    for _ in range(25):
        torch.cuda.synchronize()
        start = time.perf_counter()
        engine.enqueue()
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    record_property("ms", round(1e3 * statistics.median(spent[5:]), 3))
    assert torch.isfinite(outputs["probability"]).all()


def test_the_whole_chain_is_one_cuda_graph(with_draws, artefact, engine, record_property):  # noqa: F811
    """Captured once, replayed for other noise: what a call of its own says."""
    stream = torch.cuda.Stream()
    capturable = getattr(engine.context, "is_stream_capturable", lambda stream: True)  # of tensorrt_rtx
    inputs = engine.sent(arrays_of(artefact, with_draws.patients[:4]))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outputs = engine.bound(inputs)
        engine.enqueue()  # what is made at the first call is no part of a graph
        stream.synchronize()
        if not capturable(stream.cuda_stream):
            pytest.skip("TensorRT says that this engine cannot be captured")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            engine.enqueue()
        inputs["noise_z"].copy_(inputs["noise_z"].flip(0))
        start = time.perf_counter()
        graph.replay()
        stream.synchronize()
        record_property("ms", round(1e3 * (time.perf_counter() - start), 3))
        replayed = {name: x.clone() for name, x in outputs.items()}
        engine.enqueue()
        stream.synchronize()
    for name, x in outputs.items():
        assert torch.equal(replayed[name], x), name
