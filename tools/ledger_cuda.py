"""CUDA C++ kernels for the ledger: csrc/*/cuda.cu compiled to machine code by nvcc."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import machine_code
from ledger import Line

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("sm_80", "sm_90", "sm_120")

# Kernels, as patterns of their short name, that must fetch ahead or multiply on tensor cores.
PIPELINED: tuple[str, ...] = (r"^attend<",)
TENSOR_CORES: tuple[str, ...] = PIPELINED

# The device assertions of RMD_CHECK=1 are not listed: printf takes a stack, and they never time anything.
ASSERTIONS = r"^check_"


def missing() -> str | None:
    if shutil.which("nvcc") is None:
        return "no nvcc on this machine"
    if machine_code.cuobjdump() is None:
        return "no cuobjdump on this machine (triton brings one)"
    return None


def lines(words: list[str]) -> list[Line]:
    """The lines whose op ("csrc masked_attention") and architecture hold all the words."""
    compiler = "nvcc " + re.findall(r"release ([\d.]+)", _output("nvcc", "--version"))[0]
    found = []
    for source in sorted((ROOT / "csrc").glob("*/cuda.cu")):
        for arch in ARCHITECTURES:
            name = f"csrc {source.parent.name}"
            if not all(word in f"{name} {arch}" for word in words):
                continue
            for kernel, resources in _compile(source, arch).items():
                if re.search(ASSERTIONS, kernel):
                    continue
                pipelined, tensor_cores = (
                    any(re.search(pattern, kernel) for pattern in patterns)
                    for patterns in (PIPELINED, TENSOR_CORES)
                )
                found.append(Line(f"{name}: {kernel}", arch, compiler, resources, pipelined, tensor_cores))
    return found


def _compile(source: Path, arch: str) -> dict[str, machine_code.Resources]:
    spec = find_spec("torch")
    assert spec is not None
    torch = Path(str(spec.origin)).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        _output(
            "nvcc", "-cubin", f"-arch={arch}", "-std=c++20", "-O3",
            f"-I{ROOT / 'csrc/include'}", f"-isystem={torch}",
            "-DTORCH_TARGET_VERSION=0x020b000000000000ULL", "-DUSE_CUDA", "-o", str(cubin), str(source),
        )  # fmt: skip
        found = machine_code.resources(cubin)
    names = _output("c++filt", *found).splitlines() if shutil.which("c++filt") else list(found)
    return dict(zip(map(_short, names), found.values(), strict=True))


def _short(name: str) -> str:
    """`void rmd::graph_attention::gpu::sweep<...>(...)` -> `sweep<...>`"""
    name = re.sub(r"rmd::\w+::(gpu::|\(anonymous namespace\)::)?", "", name).removeprefix("void ")
    return re.sub(r"\([^()]*\)$", "", name).replace(" >", ">")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
