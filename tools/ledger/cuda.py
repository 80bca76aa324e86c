"""CUDA C++ kernels for the ledger: csrc/*/cuda.cu compiled by nvcc, mostly when the package was built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from tools.ledger import machine_code
from tools.ledger.lines import Line

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "robustmdiff" / "_C_cuda.so"
ARCHITECTURES = ("sm_80", "sm_90", "sm_120")

# Kernels, as patterns of their short name, that must fetch ahead or multiply on tensor cores.
PIPELINED: tuple[str, ...] = (r"^attend<",)
TENSOR_CORES: tuple[str, ...] = PIPELINED

# The device assertions of RMD_CHECK=1 are not listed: printf takes a stack, and they never time anything.
ASSERTIONS = r"^check_"


def missing() -> str | None:
    if shutil.which("nvcc") is None:
        return "no nvcc on this machine"
    if machine_code.tool("cuobjdump") is None or machine_code.tool("nvdisasm") is None:
        return "no cuobjdump or nvdisasm on this machine (triton brings both)"
    return None


def lines(words: list[str]) -> list[Line]:
    """The lines whose op ("csrc masked_attention") and architecture hold all the words."""
    compiler = "nvcc " + re.findall(r"release ([\d.]+)", _output("nvcc", "--version"))[0]
    found = []
    for arch, cubins in _cubins(words).items():
        used = {name: r for kernels in machine_code.resources(cubins, arch) for name, r in kernels.items()}
        names = _output("c++filt", *used).splitlines() if shutil.which("c++filt") else list(used)
        for name, resources in zip(names, used.values(), strict=True):
            op, kernel = "csrc " + re.findall(r"rmd::(\w+)::", name)[0], _short(name)
            if re.search(ASSERTIONS, kernel) or not all(word in f"{op} {arch}" for word in words):
                continue
            pipelined, tensor_cores = (
                any(re.search(pattern, kernel) for pattern in patterns)
                for patterns in (PIPELINED, TENSOR_CORES)
            )
            found.append(Line(f"{op}: {kernel}", arch, compiler, resources, pipelined, tensor_cores))
    return found


def _cubins(words: list[str]) -> dict[str, list[bytes]]:
    """By architecture: out of the built library where it is of these sources, otherwise compiled."""
    sources = sorted((ROOT / "csrc").glob("*/cuda.cu"))
    newest = max(file.stat().st_mtime for file in [*(ROOT / "csrc").rglob("*"), ROOT / "CMakeLists.txt"])
    with tempfile.TemporaryDirectory() as folder:
        if LIBRARY.exists() and LIBRARY.stat().st_mtime > newest:
            subprocess.run(
                [str(machine_code.tool("cuobjdump")), "--extract-elf", "all", str(LIBRARY)],
                cwd=folder, capture_output=True, check=True,
            )  # fmt: skip
        else:
            wanted = [
                (source, arch)
                for source in sources
                for arch in ARCHITECTURES
                if all(word in f"csrc {source.parent.name} {arch}" for word in words)
            ]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(lambda what: _compile(*what, Path(folder)), wanted))
        return {
            arch: [file.read_bytes() for file in sorted(Path(folder).glob(f"*.{arch}.cubin"))]
            for arch in ARCHITECTURES
        }


def _compile(source: Path, arch: str, folder: Path) -> None:
    spec = find_spec("torch")
    assert spec is not None
    torch = Path(str(spec.origin)).parent / "include"
    _output(
        "nvcc", "-cubin", f"-arch={arch}", "-std=c++20", "-O3",
        f"-I{ROOT / 'csrc/include'}", f"-isystem={torch}",
        "-DTORCH_TARGET_VERSION=0x020b000000000000ULL", "-DUSE_CUDA",
        "-o", str(folder / f"{source.parent.name}.{arch}.cubin"), str(source),
    )  # fmt: skip


def _short(name: str) -> str:
    """`void rmd::graph_attention::gpu::sweep<...>(...)` -> `sweep<...>`"""
    name = re.sub(r"rmd::\w+::(gpu::|\(anonymous namespace\)::)?", "", name).removeprefix("void ")
    return re.sub(r"\([^()]*\)$", "", name).replace(" >", ">")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
