"""chain and its peers: the same residual network, sampled in the same steps, by runtimes that know the loop
and by torch that does not.

Nothing is drawn on the way, so that everybody's answer can be checked: of DDPM the means.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.candidates import FORWARD, Candidate, Workload
from benchmarks.limits import BYTES, FLOPS
from benchmarks.peers.ours import backends
from robustmdiff.diffusion.recurrence import Steps, ddpm, heun
from robustmdiff.diffusion.schedule import Schedule, StraightPath
from robustmdiff.ops import chain
from robustmdiff.ops.chain import BlockWeights, LinearWeights, NetworkWeights, Recurrence

FEATURES = 32  # of the time


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulate(c).chunk(2, dim=-1)
        return h + self.down(nn.functional.gelu(self.up(self.norm(h) * (1 + scale) + shift)))


class Network(nn.Module):
    """As anybody would write it: modules, what is told projected anew at every step."""

    def __init__(self, D: int, f: int, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.condition = nn.Sequential(
            nn.Linear(f + FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.enter, self.leave = nn.Linear(D, width), nn.Linear(width, D)
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(blocks))

    def forward(self, x: Tensor, time: Tensor, told: Tensor) -> Tensor:
        c = self.condition(torch.cat([told, time.expand(told.shape[0], FEATURES)], dim=-1))
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, c)
        return self.leave(h)

    def weights(self) -> NetworkWeights:
        def of(layer: Any) -> LinearWeights:
            return LinearWeights(layer.weight, layer.bias)

        first, _, second, _ = self.condition
        blocks: Any = self.blocks
        parts = tuple(BlockWeights(of(b.modulate), of(b.up), of(b.down)) for b in blocks)
        return NetworkWeights(of(first), of(second), of(self.enter), parts, of(self.leave))


@dataclass(frozen=True)
class Chain(Workload):
    network: Network
    time: Tensor  # [E, FEATURES]
    table: Tensor  # [E, 6]


# Latent, told, width, hidden, blocks, and the steps.
FLOW = (40, 61, 128, 128, 2), heun(StraightPath(2), unit=1000.0)
DDPM = (256, 8, 256, 1024, 4), ddpm(Schedule(steps=50), 1.0)
NAMES = {id(FLOW): "residual flow, 4 evaluations", id(DDPM): "DDPM 256, hidden 1024, 50 steps"}


def workload(kind: tuple[tuple[int, ...], Steps], rows: int) -> Chain:
    (D, f, width, hidden, blocks), steps = kind
    torch.manual_seed(0)
    network = Network(D, f, width, hidden, blocks).eval().requires_grad_(False)
    table = steps.table.clone()
    table[:, Recurrence._fields.index("sigma")] = 0
    time = torch.randn(len(table), FEATURES)

    def exact(x: Tensor, told: Tensor) -> Tensor:
        network.to(x.dtype)
        try:
            return loop(network, x, told, time.to(x.dtype), table)
        finally:
            network.to(torch.float32)

    weights = sum(layer.weight.numel() for layer in network.weights().layers())
    need = {FORWARD: {FLOPS: 2.0 * rows * len(table) * weights, BYTES: 4.0 * len(table) * weights}}
    tensors = {"x": torch.randn(rows, D), "told": torch.randn(rows, f)}
    return Chain("chain", f"{NAMES[id(kind)]}, {rows} rows", tensors, exact, need, network, time, table)


def loop(network: Callable[..., Tensor], x: Tensor, told: Tensor, time: Tensor, table: Tensor) -> Tensor:
    before = said = torch.zeros_like(x)
    for at, row in zip(time, table.tolist(), strict=True):
        r = Recurrence(*row)
        o = network(r.input * x, at, told)
        x, before, said = r.x * x + r.output * o + r.x_before * before + r.output_before * said, x, o
    return x


def ours(given: Chain) -> Callable[..., Tensor]:
    weights = given.network.weights()
    return lambda x, told: chain(x, told, weights, given.time, given.table)


def eager(given: Chain) -> Candidate:
    def run(_: None, x: Tensor, told: Tensor) -> Tensor:
        return loop(given.network, x, told, given.time, given.table)

    return Candidate("torch eager", run, forward_only=SAMPLER)


SAMPLER = "a sampler has no backward pass"


def compiled(given: Chain) -> Candidate:
    network = torch.compile(given.network, fullgraph=True, dynamic=False)

    def run(_: None, x: Tensor, told: Tensor) -> Tensor:
        return loop(network, x, told, given.time, given.table)

    return Candidate("torch.compile, a step", run, forward_only=SAMPLER)


def ahead_of_time(given: Chain) -> Candidate:
    example = given.tensors["x"], given.time[0], given.tensors["told"]
    program = torch.export.export(given.network, example)
    with tempfile.TemporaryDirectory() as folder:
        package = os.path.join(folder, "network.pt2")
        network = torch._inductor.aoti_load_package(
            torch._inductor.aoti_compile_and_package(program, package_path=package)
        )

    def run(_: None, x: Tensor, told: Tensor) -> Tensor:
        return loop(network, x, told, given.time, given.table)

    return Candidate("AOTInductor, a step", run, forward_only=SAMPLER)


def onnx_runtime(given: Chain) -> Candidate:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(as_onnx(given), options, providers=["CPUExecutionProvider"])

    def run(_: None, x: Tensor, told: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"x": x.numpy(), "told": told.numpy()})[0])

    return Candidate("ONNX Runtime", run, forward_only=SAMPLER)


def openvino(given: Chain) -> Candidate:
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(as_onnx(given)), "CPU", settings)
    request = model.create_infer_request()

    def run(_: None, x: Tensor, told: Tensor) -> Tensor:
        found = request.infer({"x": x.numpy(), "told": told.numpy()})
        return torch.from_numpy(np.array(found[model.outputs[0]]))

    return Candidate("OpenVINO", run, forward_only=SAMPLER)


def as_onnx(given: Chain) -> bytes:
    """The chain as one ONNX graph: what is told projected once, and a Loop over the evaluations."""
    import onnx
    from onnx import numpy_helper, parser

    weights, f = given.network.weights(), given.tensors["told"].shape[1]
    first, blocks = weights.told, range(len(weights.blocks))
    times = linear(given.time, first.weight[:, f:], first.bias)
    constants = {"times": times, "rows": given.table, "first": first.weight[:, :f].T}
    layers = {"condition": weights.condition, "enter": weights.enter, "leave": weights.leave}
    for i, block in enumerate(weights.blocks):
        layers |= {f"{name}{i}": layer for name, layer in block._asdict().items()}
    for name, layer in layers.items():
        constants |= {f"{name}_w": layer.weight.T, f"{name}_b": layer.bias}
    width = len(weights.condition.bias)
    constants |= {"ones": torch.ones(width), "one": torch.ones(1), "E": torch.tensor(len(given.time))}
    body = "\n".join(_evaluation(blocks))
    latent = given.tensors["x"].shape[1]
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    chain (float[n, {latent}] x, float[n, {f}] told) => (float[n, {latent}] y) {{
      known = MatMul(told, first)
      none = Sub(x, x)
      y, before, said = Loop(E, , x, none, none) <body = step (int64 e, bool go_on, float[n, {latent}] at,
          float[n, {latent}] at_before, float[n, {latent}] said_before)
          => (bool still, float[n, {latent}] next, float[n, {latent}] now, float[n, {latent}] o) {{ {body} }}>
    }}"""
    model = parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(x.numpy()), name) for name, x in constants.items()
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _evaluation(blocks: range) -> Iterator[str]:
    yield "still = Identity(go_on)  row = Gather(rows, e)"
    yield "c_in, keep, add, kept, had, sigma = Split <num_outputs = 6> (row)"
    yield "time = Gather(times, e)  c0 = Add(known, time)  s0 = Sigmoid(c0)  c1 = Mul(c0, s0)"
    yield "c2 = Gemm(c1, condition_w, condition_b)  s2 = Sigmoid(c2)  c = Mul(c2, s2)"
    yield "scaled = Mul(c_in, at)  h0 = Gemm(scaled, enter_w, enter_b)"
    for i in blocks:
        yield f"m{i} = Gemm(c, modulate{i}_w, modulate{i}_b)"
        yield f"shift{i}, scale{i} = Split <axis = 1, num_outputs = 2> (m{i})"
        yield f"n{i} = LayerNormalization(h{i}, ones)  f{i} = Add(one, scale{i})  t{i} = Mul(n{i}, f{i})"
        yield f"y{i} = Add(t{i}, shift{i})  u{i} = Gemm(y{i}, up{i}_w, up{i}_b)  g{i} = Gelu(u{i})"
        yield f"d{i} = Gemm(g{i}, down{i}_w, down{i}_b)  h{i + 1} = Add(h{i}, d{i})"
    yield f"o = Gemm(h{len(blocks)}, leave_w, leave_b)  now = Identity(at)"
    yield "p0 = Mul(keep, at)  p1 = Mul(add, o)  p2 = Mul(kept, at_before)  p3 = Mul(had, said_before)"
    yield "p4 = Add(p0, p1)  p5 = Add(p2, p3)  next = Add(p4, p5)"


MAKERS: dict[str, Callable[[Chain], Candidate]] = {
    "torch eager": eager,
    "torch.compile, a step": compiled,
    "AOTInductor, a step": ahead_of_time,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    **backends("chain", ours, {}, {"native": SAMPLER, "torch": SAMPLER}),
}
