"""The native code is there wherever it can be built, and the package says why where it is not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustmdiff import _native

ROOT = Path(__file__).parents[2]


def test_a_compiler_means_native_code():
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the native code is for Linux on x86-64")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine, so there is nothing to build")
    assert _native.reason is None, f"{compiler} is there, but {_native.reason}"
    import robustmdiff._host

    assert robustmdiff._host.cpu_isa() in ("scalar", "avx2", "avx512")


def test_the_library_needs_only_the_stable_part_of_torch():
    """What makes one binary serve torch 2.11 to 2.13: no C++ symbol of torch, c10 or at."""
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine")
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(ROOT / "robustmdiff" / "_C.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in names)
    mangled = [name for name in names if name.startswith("_Z") and ("c102" in name or "5torch" in name)]
    assert mangled == []


def test_cuda_says_why_it_is_not_there():
    if torch.version.cuda is None:
        assert "without CUDA" in str(_native.cuda_reason)
    elif shutil.which("nvcc"):
        assert _native.cuda_reason is None, _native.cuda_reason


def test_the_cuda_library_registers_its_operators():
    """Read from the file: without a GPU it cannot be loaded."""
    library = ROOT / "robustmdiff" / "_C_cuda.so"
    sources = list((ROOT / "csrc").glob("*/cuda.cu"))
    if not library.exists() or library.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        pytest.skip("_C_cuda.so is not built from these sources")
    content = library.read_bytes()
    for name in ("ddpm_step", "graph_attention_fwd", "graph_attention_bwd", "masked_attention_fwd"):
        assert b"\0" + name.encode() + b"\0" in content, name


def test_a_missing_library_is_a_reason_not_an_error():
    assert "_nothing.so is not built (it needs a C++ compiler" in str(_native._load("_nothing.so"))


@pytest.mark.parametrize(("device", "name"), [("CPU", "_C.so"), ("CUDA", "_C_cuda.so")])
def test_a_library_older_than_an_op_is_a_reason(monkeypatch, device, name):
    monkeypatch.setattr(_native, "reason", None)
    monkeypatch.setattr(_native, "cuda_reason", None)
    operator = torch.ops.robustmdiff.masked_attention_fwd_triton.default  # no library has it
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: False)
    assert str(_native.missing(operator, device)).startswith(f"{name} was built before it had this op")


def test_import_is_quick_and_light():
    code = (
        "import torch, numpy, time, sys; start = time.perf_counter(); import robustmdiff;"
        "print(time.perf_counter() - start);"
        "print([m for m in ('triton', 'transformers', 'diffusers', 'matplotlib') if m in sys.modules])"
    )
    for _ in range(3):  # a busy machine gets another chance
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, heavy = run.stdout.split("\n")[:2]
        assert heavy == "[]"
        if float(seconds) < 0.3:
            return
    pytest.fail(f"import robustmdiff takes {seconds} s over torch, expected at most 0.3 s")


WHY = {
    "compiler": ("shutil.which = lambda *a, **k: None", "no C++ compiler (looked for"),
    "compiler asked for": (
        "os.environ['CXX'] = 'no-such-g++ -m64'",
        "no C++ compiler (looked for no-such-g++)",
    ),
    "torch": ("scope['torch_folder'] = lambda: None", "no torch is installed to build against"),
    "cmake": ("scope['program'] = lambda name: None", "no cmake"),
    "aarch64": (
        "platform.machine = lambda: 'aarch64'",
        "it is written for Linux on x86-64, and this is Linux on aarch64",
    ),
    "macOS": (
        "sys.platform = 'darwin'; platform.system = lambda: 'Darwin'; platform.machine = lambda: 'arm64'",
        "it is written for Linux on x86-64, and this is Darwin on arm64",
    ),
}


@pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ on this machine, which is a reason of its own"
)
@pytest.mark.parametrize(("without", "reason"), WHY.values(), ids=WHY.keys())
def test_setup_builds_pure_python_and_says_so(without, reason):
    """The decision and what `build_ext` does with it: nothing is compiled, nothing is expected."""
    code = f"""
import os, platform, runpy, shutil, sys, setuptools
given = {{}}
setuptools.setup = given.update
module = runpy.run_path("setup.py")
scope = module["why_not_native"].__globals__
{without}
build = given["cmdclass"]["build_ext"](setuptools.Distribution({{"ext_modules": given["ext_modules"]}}))
build.finalize_options()
build.build_extension = lambda ext: print("compiles", ext.name)
build.run()
print(build.get_outputs())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "[]\n"
    assert f"robustmdiff is installed WITHOUT its native code: {reason}" in run.stderr
    assert "It works, slower." in run.stderr


@pytest.mark.parametrize(("said", "built"), [("OFF", False), ("ON", True)])
def test_the_cuda_code_can_be_left_out(said, built):
    code = """
import runpy, setuptools, shutil
shutil.which = lambda name, *a, **k: f"/somewhere/{name}"
given = {}
setuptools.setup = given.update
runpy.run_path("setup.py")
print(*[ext.name for ext in given["ext_modules"]])
"""
    environment = {**os.environ, "RMD_CUDA": said}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert ("robustmdiff._C_cuda" in run.stdout.split()) == built
