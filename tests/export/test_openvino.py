"""OpenVINO's format says what the run says, and what it gets wrong is written otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from robustmdiff.export.export import export_run
from robustmdiff.export.openvino import build_openvino, sums_as_products
from robustmdiff.refusal import Refusal
from robustmdiff.runtime import Artefact
from robustmdiff.runtime.artefact import openvino
from robustmdiff.runtime.manifest import Manifest
from tests.export.conftest import says_what_the_run_says

C, F = 5, 7


def a_sum(axis: int = -1, keepdims: int = 0, last: str = str(F)) -> onnx.ModelProto:
    """y = log(1 + x^2) summed, plus c."""
    kept = "n, K, L" if keepdims else "n, K"
    model = parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 18]>
    g (float[n, {C}, {last}] x) => (float[{kept}] y) {{
      one = Constant <value_float = 1.0> ()
      squared = Mul(x, x)  more = Add(squared, one)  each = Log(more)
      axes = Constant <value = int64[1] {{{axis}}}> ()
      total = ReduceSum <keepdims = {keepdims}> (each, axes)
      y = Add(total, c)
    }}""")
    model.graph.initializer.append(numpy_helper.from_array(CONSTANT, "c"))
    onnx.checker.check_model(model)
    return model


CONSTANT = np.arange(1, C + 1, dtype=np.float32)
X = np.random.default_rng(0).normal(size=(3, C, F)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 3, 0])
def test_a_constant_beside_a_sum_over_the_last_axis(rows, tmp_path):
    built = build_openvino(a_sum().SerializeToString(), tmp_path / "model.xml")
    assert built["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    found = openvino(tmp_path / "model.xml", threads=1)({"x": X[:rows]})["y"]
    np.testing.assert_allclose(found, np.log1p(X[:rows] ** 2).sum(-1) + CONSTANT, rtol=1e-5)


def test_which_sums_become_products():
    def kinds(model: onnx.ModelProto) -> set[str]:
        return {node.op_type for node in sums_as_products(model).graph.node}

    assert "ReduceSum" not in kinds(a_sum())
    assert "ReduceSum" not in kinds(a_sum(axis=2))
    assert "MatMul" not in kinds(a_sum(axis=0))
    assert "MatMul" not in kinds(a_sum(last="m"))  # how many it sums is not known
    model = a_sum()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(2), "c"))
    next(node for node in model.graph.node if node.op_type == "ReduceSum").attribute[0].i = 1
    assert "MatMul" not in kinds(model)


def test_without_openvino_the_sentence_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Refusal, match="export to openvino needs OpenVINO, expected `pip install openvino`"):
        build_openvino(a_sum().SerializeToString(), tmp_path / "model.xml")
    with pytest.raises(Refusal, match="needs OpenVINO, expected `pip install openvino`"):
        openvino(tmp_path / "model.xml", None)


def test_other_precisions_are_refused(with_draws, tmp_path):
    with pytest.raises(Refusal, match="precision is 'fp16' to openvino, expected fp32"):
        export_run(with_draws.predictor.run, tmp_path / "exported", to="openvino", precision="fp16")


@pytest.fixture(scope="module")
def folder(with_draws, tmp_path_factory) -> Path:
    return export_run(
        with_draws.predictor.run, tmp_path_factory.mktemp("openvino") / "exported", to="openvino"
    )


@pytest.mark.engines
def test_under_every_subset_of_what_patients_have(with_draws, folder):
    artefact = Artefact.load(folder, engine="openvino", threads=1)
    says_what_the_run_says(with_draws, artefact)


@pytest.mark.engines
def test_its_size_is_that_of_both_files(folder):
    files = (folder / "model.xml", folder / "model.bin")
    assert Manifest.load(folder).engines["model.xml"]["bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.engines
@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_altered_files_are_refused_by_name(folder, name, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"altered")
    with pytest.raises(Refusal, match=f"{name}: is not the file that was exported"):
        Artefact.load(tmp_path, engine="openvino")
