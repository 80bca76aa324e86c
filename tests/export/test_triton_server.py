"""A repository for the Triton Inference Server: its schema is read by the server's own, its model is run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from robustmdiff.data.collate import Collator
from robustmdiff.export.triton_server import _quoted, write_repository
from robustmdiff.refusal import Refusal

DTYPES = {"TYPE_BOOL": bool, "TYPE_INT64": np.int64, "TYPE_FP32": np.float32}


def rows_of(patients, task, collator: Collator) -> dict[str, np.ndarray]:
    """What a client of the server sends; where a modality is absent, anything."""
    batch, found = collator(patients), {}
    for m, modality in enumerate(task.modalities):
        packed, B = batch.inputs[modality.name], len(batch)
        own = {"there": batch.presence[:, m : m + 1]}
        if modality.kind == "image":
            own["pixels"] = np.full((B, *modality.shape), np.nan, dtype=np.float32)
            own["pixels"][packed.rows] = packed.pixels
        elif modality.kind == "text":
            own["input_ids"] = np.zeros((B, collator.max_tokens), dtype=np.int64)
            own["length"] = np.ones((B, 1), dtype=np.int64)
            own["length"][packed.rows, 0] = packed.lengths
            ends = np.cumsum(packed.lengths)
            for row, end, length in zip(packed.rows, ends, packed.lengths, strict=True):
                own["input_ids"][row, :length] = packed.input_ids[end - length : end]
        else:
            own["value"] = np.full((B, len(modality.fields)), np.nan, dtype=np.float32)
            own["present"] = np.ones((B, len(modality.fields)), dtype=bool)
            own["value"][packed.rows], own["present"][packed.rows] = packed.value, packed.present
        found |= {f"{modality.name}.{key}": x for key, x in own.items()}
    return found


@pytest.mark.engines
def test_the_server_s_schema_reads_it_and_its_model_says_what_the_run_says(with_draws, tmp_path):
    run = with_draws.predictor.run
    place = write_repository(run, tmp_path) / "robustmdiff"
    config = text_format.Parse((place / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())
    session = onnxruntime.InferenceSession(place / "1" / "model.onnx", providers=["CPUExecutionProvider"])

    assert config.max_batch_size == 64
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    patients = [*with_draws.patients, replace(with_draws.patients[0], modalities={})]
    inputs = rows_of(patients, run.task, run.collator)
    assert {i.name for i in config.input} == inputs.keys() == {i.name for i in session.get_inputs()}
    for declared in config.input:
        x = inputs[declared.name]
        assert tuple(declared.dims) == x.shape[1:]
        assert x.dtype == DTYPES[DataType.Name(declared.data_type)]

    names = [output.name for output in config.output]
    said = dict(zip(names, session.run(names, inputs), strict=True))
    for declared in config.output:
        assert (len(patients), *declared.dims) == said[declared.name].shape
    for row, answer in enumerate(with_draws.predictor.diagnose(patients)):
        assert said["probability"][row] == pytest.approx(list(answer.probability.values()), abs=1e-5)
    warm = {
        k: np.zeros((1, *v.dims), DTYPES[DataType.Name(v.data_type)])
        for k, v in config.model_warmup[0].inputs.items()
    }
    assert np.isfinite(session.run(["probability"], warm)[0]).all()

    with pytest.raises(Refusal, match="holds a model, expected a new repository"):
        write_repository(run, tmp_path)


@pytest.mark.parametrize("name", ["labs", 'a "quoted" \\ name', "Röntgen 肺", "tab\tnewline\n"])
def test_names_of_any_alphabet(name):
    assert text_format.Parse(f"name: {_quoted(name)}", ModelConfig()).name == name
