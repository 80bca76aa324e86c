"""Resources of the kernels in a cubin, as cuobjdump reports them and as its machine code shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from ledger import Resources

FETCHES = ("LDGSTS", "UTMALDG", "UBLKCP")
MMA = ("HMMA", "IMMA", "DMMA", "QMMA", "OMMA")
WGMMA = ("HGMMA", "IGMMA", "QGMMA", "UTCHMMA")


def cuobjdump() -> str | None:
    """The one of the CUDA toolkit, or the one that Triton brings."""
    spec = find_spec("triton")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        if bundled.exists():
            return str(bundled)
    return shutil.which("cuobjdump")


def resources(cubin: Path) -> dict[str, Resources]:
    """By kernel, under its name in the machine code."""
    used = _run("--dump-resource-usage", cubin)
    counts: dict[str, Counter[str]] = {}
    kernel = ""
    for line in _run("-sass", cubin).splitlines():
        header = re.match(r"\s*Function : (\S+)", line)
        if header:
            kernel = header[1]
            counts[kernel] = Counter()
            continue
        code = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", line)
        if code:
            counts[kernel][code[1]] += 1
    found = {}
    for name, line in re.findall(r"Function (\S+?):\s*\n?\s*(REG:.*)", used):
        numbers = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
        count = counts[name]
        found[name] = Resources(
            registers=numbers["REG"],
            stack=numbers["STACK"] + numbers["LOCAL"],
            shared=numbers["SHARED"],
            cp_async=sum(count[code] for code in FETCHES),
            mma=sum(count[code] for code in MMA),
            wgmma=sum(count[code] for code in WGMMA),
        )
    return found


def _run(option: str, cubin: Path) -> str:
    tool = cuobjdump()
    assert tool is not None
    return subprocess.run([tool, option, str(cubin)], capture_output=True, text=True, check=True).stdout
