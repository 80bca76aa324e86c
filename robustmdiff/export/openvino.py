"""OpenVINO: the graph in its own format, for the CPUs that it knows best.

Its CPU plugin (2026.4) adds the first number of a constant to all of a row where the constant is added to a
sum over the last axis (openvino issue 23616, closed, is of such a sum with a known number of rows). A product
with ones is that sum, and is left alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole


def build_openvino(content: bytes, path: Path) -> dict[str, Any]:
    """Write what is made of an ONNX model, path.xml and its weights path.bin, and say what built it. Raises
    Refusal where OpenVINO is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise Refusal("export to openvino needs OpenVINO, expected `pip install openvino`") from error
    plain = inline_local_functions(onnx.load_from_string(content))
    model = openvino.Core().read_model(sums_as_products(plain).SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.with_suffix(".xml").name
        openvino.save_model(model, made, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            write_whole(path.with_suffix(suffix), made.with_suffix(suffix).read_bytes())
    return {
        "engine": "openvino",
        "package": "openvino",
        "version": openvino.__version__,
        "capabilities": ["CPU"],
        "bytes": sum(path.with_suffix(suffix).stat().st_size for suffix in (".bin", ".xml")),
    }


def sums_as_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model; a sum over a last axis of known size, which it takes away, is written as a product with
    ones."""
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    known = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.input)}
    shapes = {name: x.shape.dim for name, x in known.items() if x.elem_type == onnx.TensorProto.FLOAT}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes: list[NodeProto] = []
    for node in graph.node:
        dims = shapes.get(node.input[0], ()) if node.op_type == "ReduceSum" else ()
        if not dims or not dims[-1].HasField("dim_value") or not _over_the_last(node, len(dims), constants):
            nodes.append(node)
            continue
        x, total = node.input[0], node.output[0]
        ones, axis, kept = (f"{total}_{name}" for name in ("ones", "axis", "kept"))
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.ones((dims[-1].dim_value, 1), dtype=np.float32), ones),
                numpy_helper.from_array(np.array([-1]), axis),
            ]
        )
        nodes += [
            helper.make_node("MatMul", [x, ones], [kept]),
            helper.make_node("Squeeze", [kept, axis], [total]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _over_the_last(node: NodeProto, rank: int, constants: dict[str, np.ndarray]) -> bool:
    """Whether a ReduceSum is over the last axis alone, which it takes away."""
    keeps = next((each.i for each in node.attribute if each.name == "keepdims"), 1)
    axes = constants.get(node.input[1]) if len(node.input) > 1 else None
    return keeps == 0 and rank > 1 and axes is not None and axes.tolist() in ([-1], [rank - 1])
