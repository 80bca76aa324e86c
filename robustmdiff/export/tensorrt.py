"""TensorRT: an engine of the ONNX graph, with its whole sampler, for GPUs that need not be here.

One path for `tensorrt_rtx`, which builds on a machine without a GPU, and for `tensorrt` 10 and 11, which do
not. An engine is built in a process of its own: a build may abort.

    python -m robustmdiff.export.tensorrt MODEL.onnx ENGINE MAX_TOKENS DRAWS
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from robustmdiff.refusal import Refusal

PACKAGES = ("tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt")  # the first that is installed
CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")  # of tensorrt_rtx: Ampere, Ada and Blackwell
MOST, USUAL = 64, 8  # patients at a time, and observations of each modality


class Built(NamedTuple):
    """package and version that built an engine, the compute capabilities that it is for (none are named for
    that of this machine's GPU), layers of the network, bytes of the engine."""

    package: str
    version: str
    capabilities: tuple[str, ...]
    layers: int
    bytes: int


def build_engine(onnx: Path, engine: Path, max_tokens: int, draws: int) -> Built:
    """Raises Refusal where no TensorRT is installed, and with its own words where it cannot build."""
    if not any(map(find_spec, PACKAGES)):
        raise Refusal("export to tensorrt needs TensorRT, expected `pip install tensorrt_rtx` (or tensorrt)")
    command = [sys.executable, "-m", __name__, str(onnx), str(engine), str(max_tokens), str(draws)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise Refusal(f"{onnx}: TensorRT cannot build an engine of it ({said[-1]})")
    package, version, capabilities, layers, size = json.loads(done.stdout.splitlines()[-1])
    return Built(package, version, tuple(capabilities), layers, size)


def _build(trt: Any, onnx: str, engine: str, max_tokens: int, draws: int) -> Built:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx):
        raise SystemExit("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, max_tokens, draws))
    capabilities = _ask_for(trt, config)
    layers = network.num_layers
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise SystemExit("the builder gave no engine")
    content = bytes(built)
    Path(engine).write_bytes(content)
    return Built(trt.__name__, trt.__version__, capabilities, layers, len(content))


def _flags(trt: Any) -> int:
    """The precision is that of the graph; version 11 knows no other way and has no flag for it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, network: Any, max_tokens: int, draws: int) -> Any:
    """The least, the usual and the largest size of every axis that is open."""

    def sizes(name: str, axis: int) -> tuple[int, int, int]:
        if name.startswith("noise_"):
            return 2, max(draws, 2), max(draws, MOST)
        return (1, max_tokens, max_tokens) if axis == 1 else (1, USUAL, MOST)

    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        each = [sizes(tensor.name, axis) if n < 0 else (n, n, n) for axis, n in enumerate(shape)]
        profile.set_shape(tensor.name, *map(list, zip(*each, strict=True)))
    return profile


def _ask_for(trt: Any, config: Any) -> tuple[str, ...]:
    """The capabilities, where one may ask for them; else an engine is for the GPU that is here."""
    if not hasattr(config, "num_compute_capabilities"):
        return ()
    config.num_compute_capabilities = len(CAPABILITIES)
    for i, name in enumerate(CAPABILITIES):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), i):
            raise SystemExit(f"the builder knows no {name}")
    return CAPABILITIES


def _main(arguments: Sequence[str]) -> None:
    onnx, engine, max_tokens, draws = arguments
    trt = import_module(next(name for name in PACKAGES if find_spec(name)))
    print(json.dumps(_build(trt, onnx, engine, int(max_tokens), int(draws))))


if __name__ == "__main__":
    _main(sys.argv[1:])
