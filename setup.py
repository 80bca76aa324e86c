"""Builds the native code with CMake, on Linux and x86-64, when there is a C++ compiler and a torch to
build against.

Elsewhere the package installs as pure Python and says so. The other metadata is in
pyproject.toml; here is only what it cannot say.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent


def torch_folder() -> Path | None:
    """The installed torch, never imported: pip's build isolation hides it from import, not from sysconfig."""
    spec = find_spec("torch")
    found = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    found += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    return next((folder for folder in found if (folder / "lib" / "libtorch_cpu.so").exists()), None)


def program(name: str) -> str | None:
    """cmake or ninja: the one of the Python package first."""
    spec = find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        inside = Path(next(iter(spec.submodule_search_locations))) / "data" / "bin" / name
        if inside.exists():
            return str(inside)
    return shutil.which(name)


def nvcc() -> str | None:
    """The CUDA code is compiled where there is nvcc, unless RMD_CUDA is OFF."""
    return None if os.environ.get("RMD_CUDA") == "OFF" else shutil.which("nvcc")


def why_not_native() -> str | None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        here = f"{platform.system()} on {platform.machine()}"
        return f"it is written for Linux on x86-64, and this is {here}"
    compiler = os.environ.get("CXX", "").split()[:1] or ["g++", "c++", "clang++"]
    if not any(shutil.which(name) for name in compiler):
        return "no C++ compiler (looked for " + ", ".join(compiler) + ")"
    if torch_folder() is None:
        return "no torch is installed to build against"
    for name in ("cmake", "ninja"):
        if program(name) is None:
            return f"no {name}"
    if find_spec("pybind11") is None:
        return "no pybind11"
    return None


class CMakeBuild(build_ext):
    """One CMake project gives all modules; setuptools only has to know where they go."""

    def run(self) -> None:
        reason = why_not_native()
        if reason is not None:
            self.warn(f"robustmdiff is installed WITHOUT its native code: {reason}. It works, slower.")
            self.extensions = []
            return
        super().run()

    def build_extension(self, ext: Extension) -> None:
        if ext is not self.extensions[0]:
            return  # built together with the first
        import pybind11

        build, output = (
            Path(self.build_temp).absolute(),
            Path(self.get_ext_fullpath(ext.name)).absolute().parent,
        )
        build.mkdir(parents=True, exist_ok=True)
        cuda = nvcc()
        options = {
            "CMAKE_MAKE_PROGRAM": program("ninja"),
            "CMAKE_BUILD_TYPE": "Release",
            "TORCH_DIR": torch_folder(),
            "OUTPUT_DIR": output,
            "HOST_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "RMD_CUDA": "ON" if cuda else "OFF",
        } | ({"CMAKE_CUDA_COMPILER": cuda} if cuda else {})
        cmake = program("cmake")
        arguments = [f"-D{name}={value}" for name, value in options.items()]
        (build / "CMakeCache.txt").unlink(missing_ok=True)  # an isolated build leaves paths that are gone
        subprocess.check_call([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *arguments])
        subprocess.check_call([cmake, "--build", str(build)])

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.rpartition(".")[2] == "_host":
            return super().get_ext_filename(fullname)
        return os.path.join(*fullname.split(".")) + ".so"  # the stable ABI: no Python version in the name


modules = ["robustmdiff._C", "robustmdiff._host"]
if nvcc():
    modules.append("robustmdiff._C_cuda")
setup(
    packages=[
        *find_packages(include=["robustmdiff", "robustmdiff.*"]),
        "robustmdiff.kernels",
        *(f"robustmdiff.kernels.{op}" for op in find_packages("kernels")),
    ],
    package_dir={"robustmdiff.kernels": "kernels"},
    package_data={"": ["*.html", "*.json", "*.csv", "*.yaml", "py.typed"]},
    ext_modules=[Extension(name, sources=[], optional=False) for name in modules],
    cmdclass={"build_ext": CMakeBuild},
)
