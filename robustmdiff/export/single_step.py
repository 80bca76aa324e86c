"""A model as three graphs, for who drives the chain: what comes before it, one evaluation, what comes after.

encode.onnx  the inputs of `DiagnosisGraph` -> x and told of each row, and what the answer needs of a patient
step.onnx    one evaluation of `ops.chain`, its row of the table and its time as inputs
answer.onnx  the draws that x has become -> the outputs of `DiagnosisGraph`

A row is a draw of a patient: the patients one after the other, each with all of its draws.
`robustmdiff.runtime.single_step` drives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from robustmdiff.encoders.encoded import Encoded
from robustmdiff.export.graph import DiagnosisGraph
from robustmdiff.export.onnx import to_onnx
from robustmdiff.export.precision import LayersIn
from robustmdiff.export.program import axes_of, example_of, trace
from robustmdiff.export.sampler import drawing
from robustmdiff.forecast.flow import FlowForecast
from robustmdiff.forecast.gaussian import Noise
from robustmdiff.ops.chain import Recurrence
from robustmdiff.ops.chain.definition import State, evaluated
from robustmdiff.runtime.inputs import VIEW
from robustmdiff.whole import write_whole

ENCODE, STEP, ANSWER = "encode.onnx", "step.onnx", "answer.onnx"


class Encode(nn.Module):
    """Out: x [B S, D] and told [B S, f] of the chain; latent [B, d_h + F], evidence [B, M, F] and present
    bool [B, M] of the answer."""

    def __init__(self, graph: DiagnosisGraph) -> None:
        super().__init__()
        self.diagnosis = graph
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        graph, found = self.diagnosis, dict[str, Tensor]()

        def begun(forecast: FlowForecast, x: Tensor, told: Tensor, noise: Noise, row_ids: Tensor) -> Tensor:
            found.update(x=x, told=told)
            return x

        with LayersIn(graph.dtype), drawing(_forecast(graph), begun):
            encoded = graph.encode(inputs)
            graph.imagine(encoded, inputs)
        assert encoded.x is not None
        assert encoded.evidence is not None
        return found | {"latent": encoded.x, "evidence": encoded.evidence, "present": encoded.m}


class Step(nn.Module):
    """In: x, x_before, o_before [rows, D], told [rows, f], time, row of the table, and what is drawn, noise
    [rows, D], where the table draws. Out: the first three, of the next evaluation."""

    def __init__(self, graph: DiagnosisGraph) -> None:
        super().__init__()
        self.diagnosis = graph
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state, r = State(*(inputs[name] for name in State._fields)), Recurrence(*inputs["row"])
        with LayersIn(self.diagnosis.dtype):
            weights = _forecast(self.diagnosis).network.weights()
            after = evaluated(state, r, inputs["time"], inputs["told"], weights)
        if "noise" in inputs:
            after = after._replace(x=after.x + r.sigma * inputs["noise"])
        return {f"next_{name}": x.clone() for name, x in after._asdict().items()}


class AnswerGraph(nn.Module):
    """In: x [B, S, D] of the last step, latent, evidence and present of `Encode`, view, noise_u and noise_z.
    Out as of `DiagnosisGraph`."""

    def __init__(self, graph: DiagnosisGraph) -> None:
        super().__init__()
        self.diagnosis = graph
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        graph, x = self.diagnosis, inputs["x"].flatten(0, 1)
        segments = torch.stack([inputs["present"]] * 2, dim=-1).int()
        encoded = Encoded(x, segments, x, inputs["evidence"], graph.K, inputs["latent"])
        with LayersIn(graph.dtype), drawing(_forecast(graph), lambda forecast, *given: x):
            return graph.answer(encoded, graph.imagine(encoded, inputs))


def build_single_step(graph: DiagnosisGraph, folder: Path) -> dict[str, Any]:
    """Write the three graphs of a model with a second stage, and say what its chain is: for each evaluation
    the row of its table and its time."""
    forecast, example, axes = _forecast(graph), example_of(graph), axes_of(graph)
    with torch.no_grad():
        begun = Encode(graph)(example)
    x, told = begun.pop("x"), begun.pop("told")
    rows, patients, draws = Dim("rows"), Dim("patients"), Dim("draws")
    state = {name: x.clone() for name in State._fields} | {"told": told}
    step = state | {"time": forecast.time[0], "row": forecast.table[0]}
    if forecast.table[:, Recurrence._fields.index("sigma")].any():
        state["noise"] = step["noise"] = x.clone()
    given = {name: example[name] for name in (VIEW, "noise_u", "noise_z")}
    answer = {"x": x.unflatten(0, (-1, given["noise_z"].shape[0])), **begun, **given}
    of_answer = {name: {0: patients} for name in (*begun, VIEW)} | {"x": {0: patients, 1: draws}}
    of_answer |= {name: dict.fromkeys(axes[name], draws) for name in given if name != VIEW}
    of_step = {name: {0: rows} if name in state else {} for name in step}
    for name, module, inputs, opened in (
        (ENCODE, Encode(graph), example, axes),
        (STEP, Step(graph), step, of_step),
        (ANSWER, AnswerGraph(graph), answer, {name: of_answer[name] for name in answer}),
    ):
        write_whole(folder / name, to_onnx(trace(module, inputs, opened)))
    return {
        "engine": "single-step",
        "package": "onnx",
        "bytes": sum((folder / name).stat().st_size for name in (ENCODE, STEP, ANSWER)),
        "columns": Recurrence._fields,
        "table": forecast.table.tolist(),
        "time": forecast.time.tolist(),
    }


def _forecast(graph: DiagnosisGraph) -> FlowForecast:
    assert graph.model.second_stage is not None
    forecast = graph.model.second_stage.forecast
    assert isinstance(forecast, FlowForecast)
    return forecast
