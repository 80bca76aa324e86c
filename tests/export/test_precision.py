"""Fewer digits: how far answers move, and that it is noticed where they move too far."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
import torch

from robustmdiff.experiment.run import Run
from robustmdiff.export.export import calibrating
from robustmdiff.export.graph import DiagnosisGraph
from robustmdiff.export.int8 import to_int8
from robustmdiff.export.parity import compare
from robustmdiff.export.precision import LayersIn
from robustmdiff.export.program import noise_of
from robustmdiff.export.quality import Quality, check_changed
from robustmdiff.export.verify import verified
from robustmdiff.refusal import Refusal
from robustmdiff.runtime.artefact import Artefact, onnx_runtime


def test_a_linear_layer_multiplies_in_the_dtype_and_gives_float32():
    layer, x = torch.nn.Linear(64, 8), torch.randn(5, 64)
    with LayersIn(torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer.bfloat16()(x.bfloat16()).float())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_a_graph_in_fewer_digits_says_nearly_the_same(with_draws, dtype, most):
    """Measured: 5e-4 and 3.4e-3."""
    run = with_draws.predictor.run
    graph = DiagnosisGraph(run.model, run.conformal, run.abstention, dtype)

    @torch.no_grad()
    def engine(arrays):
        said = graph({name: torch.from_numpy(x) for name, x in arrays.items()})
        assert {x.dtype for x in said.values()} == {torch.float32, torch.bool}
        return {name: x.numpy() for name, x in said.items()}

    whole = with_draws.artefact
    fewer = Artefact(whole.manifest, engine, whole.collator, whole.noise)
    assert 0 < compare(with_draws.predictor, fewer, with_draws.patients[:4]).largest < most


def test_int8_is_made_of_the_model_and_of_patients(with_draws, tmp_path, monkeypatch):
    run, whole = with_draws.predictor.run, with_draws.artefact
    study = SimpleNamespace(patients={"calibration": with_draws.patients})
    monkeypatch.setattr(Run, "study", lambda self: study)
    graph = DiagnosisGraph(run.model, run.conformal, run.abstention)
    model = (with_draws.folder / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(to_int8(model, calibrating(run, noise_of(graph))))
    assert path.stat().st_size < 0.8 * len(model)
    types = [x.data_type for x in onnx.load(path).graph.initializer]
    assert types.count(onnx.TensorProto.INT8) > 20

    fewer = Artefact(whole.manifest, onnx_runtime(path, 1), whole.collator, whole.noise)
    assert 0 < compare(with_draws.predictor, fewer, with_draws.patients[:4]).largest < 0.3  # .06 measured


def test_what_fewer_digits_may_change():
    check_changed(Quality(-0.0019, 0.0099), "somewhere")
    for other in (Quality(-0.0021, 0), Quality(0, 0.011), Quality(float("nan"), 0)):
        with pytest.raises(Refusal, match=r"somewhere: macro AUROC changes by .* and coverage by"):
            check_changed(other, "somewhere")


@pytest.mark.parametrize("precision", ["fp32", "int8", "bf16"])
def test_what_was_exported_is_asked_where_it_can_be(with_draws, monkeypatch, precision):
    """The manifest says how; the model is the same here."""
    manifest = replace(with_draws.artefact.manifest, precision=precision)
    monkeypatch.setattr("robustmdiff.runtime.manifest.Manifest.load", lambda folder: manifest)
    monkeypatch.setattr(with_draws.predictor, "patients", lambda: with_draws.patients)
    found = verified(with_draws.predictor, with_draws.folder)
    assert found.keys() == {"onnx"}
    if precision == "bf16":
        assert found["onnx"] is None
    else:
        assert found["onnx"].parity.largest < 1e-5
        assert found["onnx"].changed == (None if precision == "fp32" else (0, 0))
