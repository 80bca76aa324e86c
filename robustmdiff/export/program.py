"""The graph of a model with its shapes left open: patients, observations, words, draws."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from robustmdiff.data.batch import Batch, Images, Panels, Texts
from robustmdiff.data.task import Modality, Task
from robustmdiff.export.graph import DiagnosisGraph
from robustmdiff.forecast.ddpm import DDPMForecast
from robustmdiff.ops import philox_key
from robustmdiff.runtime.inputs import feed

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
    task = graph.model.task
    blank = feed(_blank(task), task) | {f"noise_{name}": x for name, x in noise_of(graph).items()}
    return {name: torch.from_numpy(x) for name, x in blank.items()}


def _blank(task: Task) -> Batch[np.ndarray]:
    rows = np.arange(EXAMPLES)

    def packed(modality: Modality) -> Images | Texts | Panels:
        if modality.kind == "image":
            assert modality.shape is not None
            return Images(rows, np.zeros((EXAMPLES, *modality.shape), dtype=np.float32))
        if modality.kind == "text":
            return Texts(rows, np.ones(2 * EXAMPLES, dtype=np.int64), np.full(EXAMPLES, 2))
        shape = EXAMPLES, len(modality.fields)
        return Panels(rows, np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=bool))

    nothing = np.zeros((EXAMPLES, 0), dtype=np.float32)
    return Batch(
        ids=("",) * EXAMPLES,
        presence=np.ones((EXAMPLES, len(task.modalities)), dtype=bool),
        inputs={modality.name: packed(modality) for modality in task.modalities},
        label=nothing,
        label_known=nothing.astype(bool),
        findings=nothing,
        findings_known=nothing.astype(bool),
    )


def axes_of(example: dict[str, Tensor]) -> Axes:
    """Patients, observations of each modality, words and draws."""
    patients, draws = Dim("patients"), Dim("draws")
    found: Axes = {}
    for name in example:
        modality, _, what = name.rpartition(".")
        if not modality:
            found[name] = {0: draws} if what == "noise_z" else {1: draws}
        elif what == "at":
            found[name] = {0: patients}
        else:
            found[name] = {0: Dim(f"n_{_identifier(modality)}")}
        if what == "input_ids":
            found[name][1] = Dim(f"longest_{_identifier(modality)}")
    return found


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c)}_" for c in name)
