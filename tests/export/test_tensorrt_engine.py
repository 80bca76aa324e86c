"""How an engine is driven, with a pretended TensorRT: ONNX Runtime, which reads and writes at addresses."""

from __future__ import annotations

import ctypes
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from robustmdiff.data.patient import Patient
from robustmdiff.export.parity import compare
from robustmdiff.runtime import Artefact
from tests.export.tensorrt_engine import TensorRTEngine
from tests.export.test_export import ROUNDING

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


class Mode(Enum):
    INPUT = 0
    OUTPUT = 1


class Context:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session, self.shape, self.address = session, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape[name] = shape
        return all(0 < n <= 64 for n in shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = {
            axis: n
            for given in self.session.get_inputs()
            for axis, n in zip(given.shape, self.shape[given.name], strict=True)
        }
        (said,) = [output.shape for output in self.session.get_outputs() if output.name == name]
        return tuple(sizes[n] if isinstance(n, str) else n for n in said)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        given = {i.name: self.at(i.name, self.shape[i.name], i.type) for i in self.session.get_inputs()}
        outputs = self.session.get_outputs()
        for output, x in zip(outputs, self.session.run(None, given), strict=True):
            self.at(output.name, x.shape, output.type)[...] = x
        return True

    def at(self, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(TYPES[kind]).itemsize
        memory = (ctypes.c_byte * size).from_address(self.address[name])
        return np.frombuffer(memory, TYPES[kind]).reshape(shape)


class Engine:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.tensors = {t.name: t.type for t in (*session.get_inputs(), *session.get_outputs())}
        self.given = {t.name for t in session.get_inputs()}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, i: int) -> str:
        return list(self.tensors)[i]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self.given else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name]

    def create_execution_context(self) -> Context:
        return Context(self.session)


class Runtime:
    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        if not content:
            return None
        return Engine(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]))


class Logger:
    ERROR = 1

    def __init__(self, level: int) -> None:
        pass


PRETENDED = SimpleNamespace(
    __name__="pretended",
    __version__="0",
    Runtime=Runtime,
    Logger=Logger,
    TensorIOMode=Mode,
    nptype=TYPES.__getitem__,
)


def test_patients_are_asked_through_it(with_draws):
    engine = TensorRTEngine(PRETENDED, (with_draws.folder / "model.onnx").read_bytes(), "cpu")
    ours = with_draws.artefact
    artefact = Artefact(ours.manifest, engine, ours.collator, ours.noise)
    parity = compare(with_draws.predictor, artefact, with_draws.patients[:3])
    assert parity.largest < ROUNDING
    nobody = artefact.inputs(artefact.collator([Patient("p", {})]))
    many = {name: np.zeros((65, *x.shape[1:]), x.dtype) for name, x in nobody.items()}
    with pytest.raises(RuntimeError, match=r"\.at is \[65\], which is outside the engine's profile"):
        engine(many)


def test_an_engine_that_does_not_load_is_told():
    with pytest.raises(RuntimeError, match="pretended 0 does not load the engine on this machine"):
        TensorRTEngine(PRETENDED, b"", "cpu")


def test_tensorrt_has_what_is_pretended():
    """Whatever is called here is in the published bindings."""
    trt = pytest.importorskip("tensorrt_rtx")
    for real, pretended in (
        (trt.Runtime, Runtime),
        (trt.ICudaEngine, Engine),
        (trt.IExecutionContext, Context),
    ):
        called = {name for name in vars(pretended) if not name.startswith("_")} - {"at"}
        assert called <= set(dir(real))
    assert {*vars(PRETENDED)} <= {*dir(trt)}
    assert {"num_io_tensors", "is_stream_capturable"} <= {*dir(trt.ICudaEngine), *dir(trt.IExecutionContext)}
    assert trt.TensorIOMode.INPUT != trt.TensorIOMode.OUTPUT
    assert trt.nptype(trt.DataType.INT64) is np.int64
