"""The loops do what they say they do."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest
import torch

from benchmarks import peak

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the loop with")


@pytest.mark.parametrize("isa", peak.instruction_sets())
def test_every_chain_of_every_lane_is_computed(isa):
    function = peak.library(isa).multiply_add
    function.argtypes, function.restype = (ctypes.c_int64, ctypes.c_int), ctypes.c_float
    each = (i * 0.999**3 + 0.001 * (1 + 0.999 + 0.999**2) for i in range(peak.CHAINS))
    expected = peak.lanes(isa) * sum(each)
    assert function(3, 1) == pytest.approx(expected, rel=1e-4)
    assert function(3, 2) == pytest.approx(2 * expected, rel=1e-4)


@pytest.mark.parametrize("isa", peak.instruction_sets())
def test_every_number_is_read_as_often_as_asked(isa):
    step = peak.lanes(isa) * peak.CHAINS
    x = torch.arange(1.0, 5 * step + 4)[1:]  # it begins anywhere, and two are left over
    for times in (1, 3):
        assert peak.read(isa, x, times) == times * float(x[: 5 * step].sum())


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump to read the machine code with")
@pytest.mark.parametrize("isa", peak.instruction_sets())
def test_the_loop_is_nothing_but_multiply_adds(isa, tmp_path):
    built = tmp_path / "peak.o"
    options = ("-O3", "-fPIC", "-fopenmp", *peak.FLAGS[isa])
    subprocess.check_call(["g++", "-c", *options, peak.SOURCE, "-o", built])
    code = subprocess.check_output(["objdump", "-d", "--no-show-raw-insn", built], text=True).splitlines()
    fused = [i for i, line in enumerate(code) if "vfmadd" in line]
    assert len(fused) == peak.CHAINS  # one each
    between = [line.split("\t")[1].split()[0] for line in code[fused[0] : fused[-1] + 1] if "\t" in line]
    assert {name[:6] for name in between} <= {"vfmadd"}
