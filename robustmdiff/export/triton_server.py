"""A model repository for NVIDIA's Triton Inference Server: no Python, ONNX Runtime alone.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/1/model.onnx

The server batches requests along the first axis of every input. So here every patient has a place in every
input, and says of each modality whether it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from robustmdiff.data.kinds import KINDS
from robustmdiff.data.kinds.kind import Spec
from robustmdiff.experiment.run import Run
from robustmdiff.export.graph import DiagnosisGraph, check_exportable, inputs_of
from robustmdiff.export.onnx import to_onnx
from robustmdiff.export.program import EXAMPLES, noise_of, trace
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.inputs import VIEW
from robustmdiff.whole import write_whole

NAME, CONFIG = "robustmdiff", "config.pbtxt"
MOST, WAIT = 64, 5000  # patients at a time, and microseconds that the first of them waits for others
TYPES = {torch.bool: "TYPE_BOOL", torch.int64: "TYPE_INT64", torch.float32: "TYPE_FP32"}


class BatchedGraph(nn.Module):
    """`DiagnosisGraph` with a row for every patient in every input, and the noise inside.

    In, for each modality: NAME.there bool [B, 1]; of an image NAME.pixels [B, C, H, W]; of a text
    NAME.input_ids [B, max_tokens] and NAME.length [B, 1], at least 1; of values NAME.value [B, F] and
    NAME.present [B, F]; of another kind what its `specs` say. What stands where a modality is absent is never
    read. Out as of `DiagnosisGraph`.
    """

    def __init__(self, graph: DiagnosisGraph) -> None:
        super().__init__()
        self.diagnosis = graph  # torch.export has a "graph" of its own
        self.noise = noise_of(graph).keys()
        for name, x in noise_of(graph).items():
            self.register_buffer(f"noise_{name}", torch.from_numpy(x))
        self.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        packed = {f"noise_{name}": getattr(self, f"noise_{name}") for name in self.noise}
        modalities = self.diagnosis.model.task.modalities
        for modality in modalities:
            given = inputs_of(inputs, modality.name)
            there = given["there"][:, 0]
            rows = torch.arange(there.shape[0], device=there.device)
            own = {"at": torch.where(there, rows, -1)}
            for key, spec in KINDS[modality.kind].specs(modality).items():
                x = given[_called(key, spec)]
                own[key] = x[:, 0] if len(spec.shape) == 1 else x
            packed |= {f"{modality.name}.{key}": x for key, x in own.items()}
        if self.noise:
            packed[VIEW] = there.new_ones(there.shape[0], len(modalities))
        return self.diagnosis(packed)

    def example(self) -> dict[str, Tensor]:
        """EXAMPLES patients who have everything."""
        found: dict[str, Tensor] = {}
        longest = self.diagnosis.model.config.max_tokens
        for modality in self.diagnosis.model.task.modalities:
            own = {"there": torch.ones(EXAMPLES, 1, dtype=torch.bool)}
            for key, spec in KINDS[modality.kind].specs(modality).items():
                x = torch.from_numpy(spec.blanks(EXAMPLES, longest))
                own[_called(key, spec)] = x[:, None] if len(spec.shape) == 1 else x
            found |= {f"{modality.name}.{key}": x for key, x in own.items()}
        return found


def _called(key: str, spec: Spec) -> str:
    """One number of a patient is called in the singular."""
    return key.removesuffix("s") if len(spec.shape) == 1 else key


def write_repository(run: Run, folder: str | Path) -> Path:
    """The repository's folder; config.pbtxt is written last. Raises Refusal for a model that cannot be
    exported, and where the repository has one of this name."""
    folder = Path(folder)
    place = folder / NAME
    if (place / CONFIG).exists():
        raise Refusal(f"{place}: holds a model, expected a new repository")
    graph = BatchedGraph(DiagnosisGraph(check_exportable(run.model), run.conformal, run.abstention))
    example = graph.example()
    patients = Dim("patients")
    axes = {name: {0: patients} for name in example}
    with torch.no_grad():
        outputs = graph(example)
    write_whole(place / "1" / "model.onnx", to_onnx(trace(graph, example, axes)))
    write_whole(place / CONFIG, config_of(example, outputs).encode())
    return folder


def config_of(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> str:
    """config.pbtxt (inference.ModelConfig as protobuf text): dynamic batching, and a patient of whom nothing
    is known to warm up with."""
    warm = "\n".join(
        f"    inputs {{ key: {_quoted(name)} value {{ {_typed(x)} zero_data: true }} }}"
        for name, x in inputs.items()
    )
    return f"""name: {_quoted(NAME)}
platform: "onnxruntime_onnx"
max_batch_size: {MOST}
{_tensors("input", inputs)}
{_tensors("output", outputs)}
dynamic_batching {{ max_queue_delay_microseconds: {WAIT} }}
model_warmup [
  {{
    name: "nothing known"
    batch_size: 1
{warm}
  }}
]
"""


def _tensors(what: str, tensors: Mapping[str, Tensor]) -> str:
    each = (f"  {{ name: {_quoted(name)} {_typed(x)} }}" for name, x in tensors.items())
    return f"{what} [\n" + ",\n".join(each) + "\n]"


def _typed(x: Tensor) -> str:
    """Type and shape, without the axis of patients; one number a patient is of shape [1]."""
    shape = ", ".join(map(str, x.shape[1:]))
    return f"data_type: {TYPES[x.dtype]} dims: [ {shape} ]"


def _quoted(name: str) -> str:
    """A string of protobuf's text format."""
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in name.encode()
    )
    return '"' + "".join(plain) + '"'
