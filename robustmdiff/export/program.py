"""The graph of a model with its shapes left open: patients, observations, words, draws."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from robustmdiff.data.kinds.kind import OPEN
from robustmdiff.export.graph import DiagnosisGraph
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.ops import philox_key
from robustmdiff.runtime.inputs import VIEW, everything, specs_of

SEED = 0  # of the noise that goes along
EXAMPLES = 3  # patients that the graph is traced with; of sizes 0 and 1 tracing would make constants


Axes = dict[str, dict[int, Dim]]


class Traced(NamedTuple):
    """The program of a graph, and the names of its inputs and outputs in its order."""

    program: ExportedProgram
    inputs: list[str]
    outputs: list[str]


def trace(graph: nn.Module, example: dict[str, Tensor], axes: Axes) -> Traced:
    """A graph whose inputs have the names of the example's, and open sizes along these axes."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its trees
        outputs = list(graph(example))
        program = torch.export.export(graph, (example,), dynamic_shapes=(axes,), strict=False)
    return Traced(program, list(example), outputs)


def noise_of(graph: DiagnosisGraph) -> dict[str, np.ndarray]:
    """What the model's own number of draws is made of, float32; nothing of a model that makes none."""
    stage, model = graph.model.second_stage, graph.model
    if stage is None:
        return {}
    draws, key = model.config.draws, philox_key(SEED)
    noise = stage.forecast.noise(len(model.task.classes), draws, key)
    found = {"u": noise.u, "z": noise.z}
    if isinstance(stage.forecast, DDPMForecast):
        found["steps"] = stage.forecast.steps(draws, key)
    return {name: x.float().numpy() for name, x in found.items()}


def example_of(graph: DiagnosisGraph) -> dict[str, Tensor]:
    """Patients who have everything, and whatever noise the model needs."""
    blank = {name: spec.blanks(EXAMPLES, 2) for name, spec in specs_of(graph.model.task).items()}
    if noise := noise_of(graph):
        blank |= everything(EXAMPLES, graph.model.task) | {f"noise_{name}": x for name, x in noise.items()}
    return {name: torch.from_numpy(x) for name, x in blank.items()}


def axes_of(graph: DiagnosisGraph) -> Axes:
    """Patients, observations of each modality, words and draws."""
    patients, draws = Dim("patients"), Dim("draws")
    found: Axes = {}
    for name, spec in specs_of(graph.model.task).items():
        modality, _, what = name.rpartition(".")
        first = patients if what == "at" else Dim(f"n_{_identifier(modality)}")
        each = enumerate(zip(spec.shape, (first, Dim(f"longest_{_identifier(modality)}")), strict=False))
        found[name] = {axis: dim for axis, (size, dim) in each if size == OPEN}
    if noise := noise_of(graph):
        found[VIEW] = {0: patients}
    return found | {f"noise_{name}": {0 if name == "z" else 1: draws} for name in noise}


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c)}_" for c in name)
