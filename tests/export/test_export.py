"""What is exported says what the run says: whatever a patient lacks, alone or among others."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from robustmdiff import use_backend
from robustmdiff.baselines.mask_only import MaskOnly
from robustmdiff.cli import export
from robustmdiff.data.patient import Patient
from robustmdiff.export.export import export_run
from robustmdiff.export.forms import side_by_side
from robustmdiff.export.graph import check_exportable
from robustmdiff.export.parity import Parity, check, compare, views_of
from robustmdiff.export.quality import quality
from robustmdiff.ops.chain import Recurrence
from robustmdiff.refusal import Refusal
from robustmdiff.runtime import Artefact
from robustmdiff.runtime.signature import verify
from tests.export.conftest import exported, says_what_the_run_says, small_run
from tests.runtime.test_signature import written

WITHOUT = """
import pickle, sys
for name in ("torch", "transformers", "onnx", "onnxscript", "scipy", "sklearn"):
    sys.modules[name] = None  # as if it were not installed
from robustmdiff.runtime import Artefact
patients = pickle.load(open(sys.argv[2], "rb"))
model = Artefact.load(sys.argv[1], threads=1)
pickle.dump(model.diagnose(patients), open(sys.argv[3], "wb"))
"""
ROUNDING = 1e-5  # float32 through a few layers; `compare` measures about 1e-6


def test_under_every_subset_of_what_patients_have(with_draws):
    parity = compare(with_draws.predictor, with_draws.artefact, with_draws.patients)
    assert parity.people == 13
    assert parity.views > 13 * 4
    assert parity.largest < ROUNDING
    assert parity.sets == 0


@pytest.mark.parametrize("loop", ["torch", "native"])
def test_whichever_loop_draws_a_diagnosis_is_the_same(with_draws, loop):
    """As the file's, by the same key: every probability and both ends of every interval."""
    exported = with_draws.artefact.diagnose(with_draws.patients[:4])
    with use_backend(chain=loop):
        ours = with_draws.predictor.diagnose(with_draws.patients[:4])
    for one, other in zip(ours, exported, strict=True):
        assert one.interval
        assert one.probability == pytest.approx(other.probability, abs=ROUNDING)
        for name, ends in one.interval.items():
            assert ends == pytest.approx(other.interval[name], abs=ROUNDING)


def test_the_next_test_is_the_run_s(with_draws):
    names = with_draws.predictor.task.modality_names
    views = [view for patient in with_draws.patients[:3] for view in views_of(patient, names)]
    told = 0
    for view in views:
        ours, theirs = with_draws.predictor.next_test(view), with_draws.artefact.next_test(view)
        assert [test.modality for test in theirs] == [test.modality for test in ours]
        for our, their in zip(ours, theirs, strict=True):
            assert asdict(their) == pytest.approx(asdict(our), abs=ROUNDING)
            told += our.expected_change > 1e-3
    assert told > 10
    assert any(not view.modalities for view in views)


def test_every_part_of_the_answer_is_there(with_draws):
    patient = with_draws.patients[0]
    ours, theirs = with_draws.predictor.diagnose(patient), with_draws.artefact.diagnose(patient)
    assert theirs.interval.keys() == ours.interval.keys() == set(with_draws.predictor.task.classes)
    assert theirs.findings.keys() == ours.findings.keys() == set(with_draws.predictor.task.findings)
    assert (theirs.patient, theirs.missing, theirs.answer) == (ours.patient, ours.missing, "draws")


def test_of_a_patient_with_nothing_it_says_the_prevalence(with_draws):
    nothing = replace(with_draws.patients[0], modalities={})
    answer = with_draws.artefact.diagnose(nothing)
    task = with_draws.predictor.task
    assert list(answer.probability.values()) == pytest.approx(task.prevalence, abs=1e-7)
    assert all(low == high for low, high in answer.interval.values())
    assert (answer.nothing_known, answer.unlike_training, answer.findings) == (True, True, {})
    assert set(answer.prediction) == set(with_draws.predictor.diagnose(nothing).prediction)


def test_the_others_in_a_batch_change_nothing_but_rounding(with_draws):
    together = with_draws.artefact.diagnose(with_draws.patients)
    for patient, among in zip(with_draws.patients, together, strict=True):
        alone = with_draws.artefact.diagnose(patient)
        assert alone.probability == pytest.approx(among.probability, abs=1e-6)
        assert alone.prediction == among.prediction


def test_nobody_is_an_answer_too(with_draws):
    assert with_draws.artefact.diagnose([]) == []


@pytest.mark.parametrize("text", ["", "word " * 400])
def test_texts_of_any_length(with_draws, text):
    patient = replace(with_draws.patients[0], modalities={"text": text})
    ours, theirs = with_draws.predictor.diagnose(patient), with_draws.artefact.diagnose(patient)
    assert theirs.probability == pytest.approx(ours.probability, abs=ROUNDING)


def test_our_ops_are_functions_of_our_domain(with_draws):
    model = onnx.load(with_draws.folder / "model.onnx")
    assert {f.name for f in model.functions if f.domain == "robustmdiff"} >= {
        "masked_attention",
        "knowledge_attention",
    }
    used = {node.op_type for node in model.graph.node if node.domain == "robustmdiff"}
    assert used == {"masked_attention", "knowledge_attention"}
    open_axes = {i.name: i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input}
    assert all(open_axes[f"{name}.at"] for name in with_draws.predictor.task.modality_names)


def test_it_answers_where_there_is_no_torch(with_draws, tmp_path):
    people, said = tmp_path / "people", tmp_path / "said"
    people.write_bytes(pickle.dumps(with_draws.patients))
    subprocess.run([sys.executable, "-c", WITHOUT, with_draws.folder, people, said], check=True)
    assert pickle.loads(said.read_bytes()) == with_draws.artefact.diagnose(with_draws.patients)


@pytest.mark.slow  # a second graph
def test_several_labels_and_no_draws(tmp_path):
    many = exported(tmp_path, multilabel=True, second_stage=None)
    parity = compare(many.predictor, many.artefact, many.patients[:4])
    assert parity.largest < ROUNDING
    assert parity.sets == 0
    assert many.artefact.diagnose(many.patients[0]).interval == {}
    assert not (many.folder / "noise.npz").exists()
    assert (many.artefact.manifest.together, many.artefact.everything(2)) == ([], {})
    with pytest.raises(Refusal, match="the model has no chain, expected a second stage"):
        export_run(many.predictor.run, tmp_path / "other", sampler="single-step")


@pytest.mark.slow  # four graphs more
@pytest.mark.parametrize("second_stage", ["flow", "ddpm"])
def test_a_chain_that_is_driven_from_outside(second_stage, tmp_path):
    found = exported(tmp_path, second_stage=second_stage, sampler="single-step")
    driven = Artefact.load(found.folder, engine="single-step", threads=1)
    says_what_the_run_says(found, driven)
    chain = found.artefact.manifest.engines["encode.onnx"]
    assert chain["columns"] == list(Recurrence._fields)
    forecast = found.predictor.run.model.second_stage.forecast
    assert chain["table"] == forecast.table.tolist()
    assert chain["time"] == forecast.time.tolist()
    (tmp_path / "exported" / "step.onnx").write_bytes(b"altered")
    with pytest.raises(Refusal, match=r"step\.onnx: is not the file that was exported"):
        Artefact.load(found.folder, engine="single-step")


@pytest.mark.slow  # four graphs more
def test_a_single_step_multiplies_in_the_precision_of_the_graph(tmp_path):
    found = exported(tmp_path, precision="fp16", sampler="single-step")
    driven = Artefact.load(found.folder, engine="single-step", threads=1)
    for name in ("encode.onnx", "step.onnx", "answer.onnx"):
        types = [x.data_type for x in onnx.load(found.folder / name).graph.initializer]
        assert types.count(onnx.TensorProto.FLOAT16) > 10
    whole = found.artefact.diagnose(found.patients[:4])
    for one, other in zip(driven.diagnose(found.patients[:4]), whole, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=ROUNDING)
    parity = compare(found.predictor, driven, found.patients[:4])
    assert 0 < parity.largest < 1e-3  # 2.0e-4 measured


@pytest.mark.slow  # a second graph
def test_a_flow_may_be_a_loop(tmp_path):
    found = exported(tmp_path, sampler="loop")
    graph = onnx.load(found.folder / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("Loop") == 1
    says_what_the_run_says(found, found.artefact)


@pytest.mark.slow  # a second graph
def test_a_diffusion_may_be_a_loop_and_its_layers_multiply_in_fp16(tmp_path):
    found = exported(tmp_path, second_stage="ddpm", precision="fp16", sampler="loop")
    graph = onnx.load(found.folder / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("Loop") == 1
    assert found.artefact.noise["noise_steps"].ndim == 3
    halves = [x.name for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) > 20
    parity = compare(found.predictor, found.artefact, found.patients[:4])
    assert 0 < parity.largest < 1e-3  # 1.4e-4 measured


def test_a_difference_is_told(with_draws, tmp_path):
    other, patients = small_run(tmp_path, seed=3)
    parity = compare(type(with_draws.predictor)(other), with_draws.artefact, patients[:2])
    assert parity.largest > 0.01
    with pytest.raises(Refusal, match="differs by 0"):
        check(parity, "somewhere")
    with pytest.raises(Refusal, match="differs by nan"):
        check(Parity(1, 1, float("nan"), 0), "somewhere")


def test_views_are_the_subsets_of_what_is_there(with_draws):
    patient = replace(with_draws.patients[0], modalities={"text": "a", "structured": {}, "ct": None})
    names = with_draws.predictor.task.modality_names
    assert sorted(tuple(view.modalities) for view in views_of(patient, names)) == [
        (),
        ("structured",),
        ("text",),
        ("text", "structured"),
    ]


def test_what_cannot_be_exported(with_draws, make_study, tmp_path):
    study = make_study()
    for model, said in [
        (MaskOnly(study.cohort.task, study.config), "a MaskOnly, expected RobustMDiff"),
        (study.model(denoiser=True), "jointly trained denoiser"),
    ]:
        with pytest.raises(Refusal, match=said):
            check_exportable(model)
    run = with_draws.predictor.run
    with pytest.raises(Refusal, match="precision is 'fp8', expected one of fp32, fp16, bf16, int8"):
        export_run(run, tmp_path, precision="fp8")
    with pytest.raises(Refusal, match="precision is 'int8' to aoti, expected fp32, fp16 or bf16"):
        export_run(run, tmp_path, to="aoti", precision="int8")
    with pytest.raises(Refusal, match="to is 'pdf', expected one of onnx, tensorrt, aoti"):
        export_run(run, tmp_path, to="pdf")
    with pytest.raises(Refusal, match="holds an exported model"):
        export_run(run, with_draws.folder)
    with pytest.raises(Refusal, match="sampler is 'scan', expected one of loop, unrolled, single-step"):
        export_run(run, tmp_path, sampler="scan")
    for how in ({"to": "openvino"}, {"to": "tensorrt"}, {"to": "aoti"}, {"precision": "int8"}):
        with pytest.raises(Refusal, match=r"sampler is 'single-step' to .*, expected onnx, and not int8"):
            export_run(run, tmp_path, sampler="single-step", **how)


def test_what_ties_in_calibration_ties_in_a_diagnosis(with_draws):
    """The score of a patient with nothing is 1 - prevalence, the same number for all of them: float64 where
    sets are calibrated, and float32 where a model answers."""
    sets, task = with_draws.predictor.run.conformal, with_draws.predictor.task
    exact = np.array([task.prevalence])
    nothing = np.zeros((1, len(task.modalities)), dtype=bool)
    assert (sets.sets(exact, nothing) == sets.sets(exact.astype(np.float32), nothing)).all()


@pytest.fixture
def command(with_draws, monkeypatch):
    """`robustmdiff export`, where the run is at hand and its graph is made."""
    monkeypatch.setattr(
        "robustmdiff.predictor.Predictor.from_pretrained", lambda folder: with_draws.predictor
    )
    monkeypatch.setattr(with_draws.predictor, "patients", lambda: with_draws.patients[:1])

    def copied(run, out, **how):
        shutil.copytree(with_draws.folder, out)

    monkeypatch.setattr("robustmdiff.export.export.export_run", copied)
    return export.export


def test_what_is_signed_is_what_was_compared(command, tmp_path, capsys):
    key = written(tmp_path / "ours", ec.generate_private_key(ec.SECP256R1()))
    command(tmp_path, tmp_path / "exported", sign=key)
    assert "wrote" in capsys.readouterr().out
    verify(tmp_path / "exported", tmp_path / "ours.pub")
    (tmp_path / "exported" / "bom.cdx.json").write_bytes(b"{}")
    with pytest.raises(Refusal, match=r"bom\.cdx\.json: is not the file that was signed"):
        verify(tmp_path / "exported", tmp_path / "ours.pub")
    with pytest.raises(Refusal, match=r"bom\.cdx\.json: is not the file that was exported"):
        command(tmp_path, tmp_path / "exported", verify=True)


def test_nothing_is_exported_with_a_key_that_cannot_sign(command, tmp_path):
    (tmp_path / "text").write_bytes(b"no key")
    with pytest.raises(Refusal, match="text: is no private key to sign with"):
        command(tmp_path, tmp_path / "exported", sign=tmp_path / "text")
    with pytest.raises(Refusal, match=r"--sign is .*text with --verify, which writes nothing"):
        command(tmp_path, tmp_path / "exported", verify=True, sign=tmp_path / "text")
    assert not (tmp_path / "exported").exists()


def test_forms_side_by_side(with_draws, tmp_path, monkeypatch):
    monkeypatch.setattr("robustmdiff.export.forms.SIZES", (1, 5))
    folder = shutil.copytree(with_draws.folder, tmp_path / "exported")
    (folder / "model.engine").write_bytes(b"an engine")
    built = {"model.engine": {"engine": "tensorrt", "bytes": 9}}
    replace(with_draws.artefact.manifest, engines=built).save(folder)
    people = with_draws.patients
    monkeypatch.setattr(with_draws.predictor, "patients", lambda: people)
    torch, onnx, tensorrt = side_by_side(with_draws.predictor, [folder], people)
    assert (torch.form, onnx.form) == ("torch", str(folder / "model.onnx"))
    assert (torch.precision, onnx.precision) == ("fp32", "fp32")
    assert torch.difference == 0 < onnx.difference < ROUNDING
    assert onnx.auroc == torch.auroc
    assert onnx.coverage == torch.coverage
    assert onnx.bytes == (with_draws.folder / "model.onnx").stat().st_size
    assert all(form.ms_1 > 0 and form.ms_64 > 0 for form in (torch, onnx))
    assert (tensorrt.form, tensorrt.bytes, tensorrt.auroc) == (str(folder / "model.engine"), 9, None)
    assert "tensorrt cannot be run here" in tensorrt.reason


def test_quality_of_what_is_right_and_of_what_is_wrong(with_draws):
    task, (one, other) = with_draws.predictor.task, with_draws.predictor.task.classes[:2]
    people = [Patient(f"{i}", {}, labels={name: True}) for i, name in enumerate((one, other))]
    sure = [
        replace(
            with_draws.artefact.diagnose(people[0]),
            probability={c: float(c == name) for c in task.classes},
            prediction=(name,),
        )
        for name in (one, other)
    ]
    assert quality(sure, people, task) == (1.0, 1.0)
    assert quality(sure[::-1], people, task) == (0.0, 0.0)
