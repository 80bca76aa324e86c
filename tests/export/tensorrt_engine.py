"""A TensorRT engine as what an `Artefact` asks: arrays in, arrays out, in torch's memory on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustmdiff.runtime.inputs import Arrays


class TensorRTEngine:
    """trt is `tensorrt_rtx` or `tensorrt`. Raises RuntimeError for an engine that does not load here."""

    def __init__(self, trt: Any, content: bytes, device: str) -> None:
        self.device = torch.device(device)
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # has to live as long as the engine
        self.engine = self.runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise RuntimeError(f"{trt.__name__} {trt.__version__} does not load the engine on this machine")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        given = {name for name in names if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs = [name for name in names if name in given]
        self.dtype = {
            name: torch.from_numpy(np.empty(0, trt.nptype(self.engine.get_tensor_dtype(name)))).dtype
            for name in names
            if name not in given
        }

    def __call__(self, arrays: Arrays) -> Arrays:
        inputs = self.sent(arrays)
        outputs = self.bound(inputs)
        self.enqueue()
        return {name: x.cpu().numpy() for name, x in outputs.items()}

    def sent(self, arrays: Arrays) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(np.ascontiguousarray(arrays[name])).to(self.device) for name in self.inputs
        }

    def bound(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, where `enqueue` writes what it says of the inputs, both at their places."""
        for name, x in inputs.items():
            if not self.context.set_input_shape(name, tuple(x.shape)):
                raise RuntimeError(f"{name} is {list(x.shape)}, which is outside the engine's profile")
        outputs = {
            name: torch.empty(tuple(self.context.get_tensor_shape(name)), dtype=dtype, device=self.device)
            for name, dtype in self.dtype.items()
        }
        for name, x in (inputs | outputs).items():
            self.context.set_tensor_address(name, x.data_ptr())
        return outputs

    def enqueue(self) -> None:
        stream = torch.cuda.current_stream().cuda_stream if self.device.type == "cuda" else 0
        if not self.context.execute_async_v3(stream):
            raise RuntimeError("the engine did not take the call")
