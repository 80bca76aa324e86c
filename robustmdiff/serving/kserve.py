"""The KServe (Open Inference) protocol, version 2, over HTTP: tensors as JSON or by its binary extension.

A request is a JSON header, of as many bytes as Inference-Header-Content-Length says where tensors follow it,
one behind the other. Nothing is taken on trust: the bytes have to be those that shape and type ask for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from robustmdiff.data.kinds.kind import OPEN, Spec
from robustmdiff.runtime.inputs import Arrays
from robustmdiff.serving.limits import Refused

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]
DATATYPES = {"b": "BOOL", "i": "INT64", "f": "FP32"}  # by NumPy's kind
PYTHON: Mapping[str, set[type]] = {"b": {bool}, "i": {int}, "f": {int, float}}  # what JSON writes them as
LONGEST_AXIS = 2**31
LONGEST_ID = 256  # characters


@dataclass(frozen=True)
class Asked:
    """id      as the client wrote it, to be repeated
    arrays  in the order of the model's inputs
    wanted  the outputs, and whether each is to be binary
    """

    id: str
    arrays: Arrays
    wanted: Mapping[str, bool]


def metadata(name: str, versions: list[str], inputs: Mapping[str, Spec], outputs: Mapping[str, Spec]) -> Any:
    return {
        "name": name,
        "versions": versions,
        "platform": "robustmdiff",
        "inputs": [_described(*each) for each in inputs.items()],
        "outputs": [_described(*each) for each in outputs.items()],
    }


def _described(name: str, spec: Spec) -> Any:
    return {"name": name, "datatype": DATATYPES[spec.dtype.kind], "shape": list(spec.shape)}


def may_be_left_out(name: str) -> bool:
    """Of an input: noise and view, which the server has its own of. Those of a modality have a dot."""
    return "." not in name


def read_json(text: bytes, what: str) -> Any:
    """Raises Refused for what is not JSON; NaN and Infinity are not."""
    try:
        return json.loads(text.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, f"{what} is not JSON in UTF-8") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_request(
    body: bytes, header_length: str | None, inputs: Mapping[str, Spec], outputs: Mapping[str, Spec]
) -> Asked:
    """Raises Refused."""
    head, rest = body, memoryview(b"")
    if header_length is not None:
        if not (header_length.isdecimal() and len(header_length) < 20 and int(header_length) <= len(body)):
            raise Refused(400, f"{HEADER_LENGTH} is not a number of bytes, expected at most the body's")
        head, rest = body[: int(header_length)], memoryview(body)[int(header_length) :]
    request = read_json(head, "the request")
    if not isinstance(request, dict):
        raise Refused(400, "the request is no JSON object, expected one with 'inputs'")
    id = request.get("id", "")
    if not isinstance(id, str) or len(id) > LONGEST_ID:
        raise Refused(400, f"id is not a text of at most {LONGEST_ID} characters")
    binary = _flag(_parameters(request, "the request", ("binary_data_output",)), "binary_data_output", False)
    given: Arrays = {}
    for tensor in _tensors(request.get("inputs"), "inputs", inputs):
        given[tensor["name"]], rest = _array(tensor, inputs[tensor["name"]], rest)
    if len(rest):
        raise Refused(400, f"{len(rest)} bytes follow the inputs, expected none")
    for name in inputs:
        if name not in given and not may_be_left_out(name):
            raise Refused(400, f"inputs: {name} is missing")
    wanted = {}
    for tensor in _tensors(request.get("outputs") or [], "outputs", outputs):
        name = tensor["name"]
        wanted[name] = _flag(_parameters(tensor, name, ("binary_data",)), "binary_data", binary)
    return Asked(
        id,
        {name: given[name] for name in inputs if name in given},
        wanted or dict.fromkeys(outputs, binary),
    )


def _tensors(listed: Any, what: str, specs: Mapping[str, Spec]) -> list[dict[str, Any]]:
    """The tensors of a request that are listed, checked: each is there, and once."""
    if not isinstance(listed, list) or not all(isinstance(tensor, dict) for tensor in listed):
        raise Refused(400, f"{what} is no list of tensors")
    names = [tensor.get("name") for tensor in listed]
    if not all(isinstance(name, str) and name in specs for name in names) or len({*names}) < len(names):
        raise Refused(
            400, f"{what} names a tensor that there is not, or one twice, expected {', '.join(specs)}"
        )
    return listed


def _parameters(of: dict[str, Any], what: str, known: tuple[str, ...]) -> dict[str, Any]:
    parameters = of.get("parameters") or {}
    if not isinstance(parameters, dict) or not parameters.keys() <= {*known}:
        raise Refused(
            400, f"parameters of {what}: one is not known here, expected {', '.join(known)} or none"
        )
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refused(400, f"{name} is not true or false")
    return value


def _array(tensor: dict[str, Any], spec: Spec, rest: memoryview) -> tuple[np.ndarray, memoryview]:
    """A tensor of the request, and the bytes that follow it."""
    name: str = tensor["name"]
    shape: Any = tensor.get("shape")
    datatype = DATATYPES[spec.dtype.kind]
    if tensor.get("datatype") != datatype:
        raise Refused(400, f"{name}: the datatype is another, expected {datatype}")
    if not _is_of(shape, spec.shape):
        raise Refused(
            400, f"{name}: the shape is another, expected {list(spec.shape)} with any number for -1"
        )
    count = math.prod(shape)  # of Python's integers, which do not overflow
    parameters = _parameters(tensor, name, ("binary_data_size",))
    if not parameters:
        return _from_json(name, tensor.get("data"), spec.dtype, shape, count), rest
    size = parameters["binary_data_size"]
    if "data" in tensor or type(size) is not int or size != count * spec.dtype.itemsize or size > len(rest):
        raise Refused(
            400, f"{name}: binary_data_size is not what shape, datatype and body have, or there is data, too"
        )
    if datatype == "BOOL" and any(byte > 1 for byte in rest[:size]):
        raise Refused(400, f"{name}: holds bytes other than 0 and 1")
    wire = spec.dtype.newbyteorder("<")
    return np.frombuffer(rest[:size], wire).astype(spec.dtype).reshape(shape), rest[size:]


def _is_of(shape: Any, expected: tuple[int, ...]) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == len(expected)
        and all(type(n) is int and 0 <= n <= LONGEST_AXIS for n in shape)
        and all(want in (OPEN, n) for n, want in zip(shape, expected, strict=True))
    )


def _from_json(name: str, data: Any, dtype: np.dtype, shape: list[int], count: int) -> np.ndarray:
    """The array of a tensor's data in JSON, nested as the shape is, or flat."""
    error = Refused(400, f"{name}: data is not {count} values of {DATATYPES[dtype.kind]}, flat or nested")
    if not isinstance(data, list):
        raise error
    try:
        values = np.array(data, dtype=object)
    except ValueError:  # lists of different lengths
        raise error from None
    if values.shape not in ((count,), tuple(shape)) or not {*map(type, values.flat)} <= PYTHON[dtype.kind]:
        raise error
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            return values.astype(dtype).reshape(shape)
    except OverflowError:
        raise error from None


def write_response(name: str, version: str, asked: Asked, said: Arrays) -> tuple[bytes, dict[str, str]]:
    """The body, and the headers that it needs. Raises ValueError for NaN, which JSON has not."""
    listed, tensors = [], []
    for output, binary in asked.wanted.items():
        x = np.ascontiguousarray(said[output])
        tensor: dict[str, Any] = {"name": output, "datatype": DATATYPES[x.dtype.kind], "shape": list(x.shape)}
        if binary:
            tensors.append(x.astype(x.dtype.newbyteorder("<")).tobytes())
            tensor["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            tensor["data"] = x.ravel().tolist()
        listed.append(tensor)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": listed}
    head = json.dumps(answer | ({"id": asked.id} if asked.id else {}), allow_nan=False).encode()
    if not tensors:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join((head, *tensors)), headers
