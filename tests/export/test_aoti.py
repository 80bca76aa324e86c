"""The package of AOTInductor says what the run says, in Python and in a process that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmdiff import use_backend
from robustmdiff.export import aoti
from robustmdiff.export.export import export_run
from robustmdiff.ops import knowledge_attention, masked_attention_lse
from robustmdiff.refusal import Refusal
from robustmdiff.runtime import Artefact
from tests.export.conftest import ROUNDING, says_what_the_run_says
from tests.export.test_functions import inside, padded_patients

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"


@settings(max_examples=40, deadline=None)
@given(padded_patients(), padded_patients(), st.integers(1, 3), st.integers(1, 8), st.integers(0, 99))
def test_masked_attention_whatever_is_absent_and_whatever_stands_there(asking, asked, H, D, seed):
    (Lq, q_segments), (Lk, k_segments) = asking, asked
    B = min(len(q_segments), len(k_segments))
    q_segments, k_segments = (torch.from_numpy(x[:B]) for x in (q_segments, k_segments))
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B * L, H, D, generator=generator) for L in (Lq, Lk, Lk))
    with use_backend(masked_attention="definition"):
        doubles = (x.double() for x in (q, k, v))
        expected, expected_lse = masked_attention_lse(*doubles, q_segments, k_segments, scale=0.5)
    for x, segments in ((k, k_segments), (v, k_segments)):
        x[torch.from_numpy(~inside(segments.numpy(), len(x)))] = torch.nan
    out, lse = aoti.masked_attention(q, k, v, q_segments, k_segments, None, None, 0.5, False, 0.0)
    assert (out - expected).abs().max() < 1e-5
    assert ((lse - expected_lse) / expected_lse.abs().clamp(min=1)).abs().max() < 1e-5


@pytest.mark.parametrize("present", [7, 3, 0], ids=["all", "some", "none"])
def test_knowledge_attention_whichever_concepts_are_absent(present):
    generator = torch.Generator().manual_seed(present)
    q, K, prior = (torch.randn(shape, generator=generator) for shape in ((5, 2, 4), (7, 4), (7,)))
    prior[present:] = -torch.inf
    with use_backend(knowledge_attention="definition"):
        expected = knowledge_attention(q.double(), K.double(), prior, scale=0.5)
    K[present:] = torch.nan
    out, _ = aoti.knowledge_attention(q, K, prior, 0.5)
    assert (out - expected).abs().max() < 1e-5


def test_without_a_compiler_the_sentence_says_what_it_needs(tmp_path, monkeypatch):
    def none():
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(Refusal, match="needs a C\\+\\+ compiler"):
        aoti.build_package(SimpleNamespace(), tmp_path / "model.pt2", ())


@pytest.fixture(scope="module")
def folder(with_draws, tmp_path_factory) -> Path:
    return export_run(with_draws.predictor.run, tmp_path_factory.mktemp("aoti") / "exported", to="aoti")


@pytest.mark.engines
def test_under_every_subset_of_what_patients_have(with_draws, folder):
    artefact = Artefact.load(folder, engine="aoti")
    says_what_the_run_says(with_draws, artefact)


@pytest.mark.engines
def test_in_a_process_without_python(with_draws, folder, tmp_path):
    artefact, patient = with_draws.artefact, with_draws.patients[0]
    inputs = artefact.inputs(artefact.collator([patient]))
    torch.save({name: torch.from_numpy(x) for name, x in inputs.items()}, tmp_path / "patient.pt")

    programs = Path(sys.executable).parent
    cmake = [programs / "cmake", "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={programs / 'ninja'}"]
    where = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", "-S", EXAMPLE, "-B", tmp_path / "build"]
    subprocess.run([*cmake, *where], check=True, capture_output=True)
    subprocess.run([programs / "cmake", "--build", tmp_path / "build"], check=True, capture_output=True)
    diagnose = tmp_path / "build" / "diagnose"
    needs = subprocess.run(["ldd", diagnose], check=True, capture_output=True, text=True).stdout
    assert "libpython" not in needs

    command = [diagnose, folder / "model.pt2", tmp_path / "patient.pt"]
    alone = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
    said = [line.split(" ", 2) for line in done.stdout.splitlines()]
    expected = with_draws.predictor.diagnose(patient)
    assert {name: float(p) for p, _, name in said} == pytest.approx(expected.probability, abs=ROUNDING)
    assert {name for _, sign, name in said if sign == "+"} == set(expected.prediction)

    (tmp_path / "patient.pt").write_bytes(b"nothing")
    broken = subprocess.run(command, capture_output=True, text=True, env=alone)
    assert broken.returncode == 1
    assert len(broken.stderr.splitlines()) == 1
