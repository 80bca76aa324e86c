"""int8 in an ONNX graph: layers between QuantizeLinear and DequantizeLinear, scales from patients."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from robustmdiff.runtime.inputs import Arrays

LAYERS = [
    "MatMul",
    "Gemm",
    "Conv",
]  # those whose second input is a constant; the ops' bodies stay as they are


class _Inputs(CalibrationDataReader):
    def __init__(self, batches: Iterable[Arrays]) -> None:
        self.batches: Iterator[Arrays] = iter(batches)

    def get_next(self) -> Arrays | None:
        return next(self.batches, None)


def to_int8(model: bytes, batches: Iterable[Arrays]) -> bytes:
    """A float32 model with its layers in int8: weights by output channel, activations by the range that they
    have on the batches, symmetric, as TensorRT wants them."""
    logging.disable(logging.WARNING)  # that it might first be optimised, for one runtime
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_static(
                onnx.load_from_string(model),
                path,
                _Inputs(batches),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=LAYERS,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": True},
            )
            return path.read_bytes()
    finally:
        logging.disable(logging.NOTSET)
