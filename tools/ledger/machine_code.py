"""Resources of the kernels in cubins, as cuobjdump reports them and as their machine code shows."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from tools.ledger.lines import Resources

FETCHES = ("LDGSTS", "UTMALDG", "UBLKCP")
MMA = ("HMMA", "IMMA", "DMMA", "QMMA", "OMMA")
WGMMA = ("HGMMA", "IGMMA", "QGMMA", "UTCHMMA")


def tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: the one that Triton brings, or the one of the CUDA toolkit."""
    spec = find_spec("triton")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
        if bundled.exists():
            return str(bundled)
    return shutil.which(name)


def resources(cubins: Sequence[bytes], arch: str) -> list[dict[str, Resources]]:
    """The kernels of each cubin for `arch` ("sm_90"), by their name in the machine code."""
    used = [_usage(cubin) for cubin in cubins]
    counts = _instructions([dict(_code(cubin)) for cubin in cubins], arch)
    return [
        {
            name: Resources(
                registers=numbers["REG"],
                stack=numbers["STACK"] + numbers["LOCAL"],
                shared=numbers["SHARED"],
                cp_async=sum(count[name][code] for code in FETCHES),
                mma=sum(count[name][code] for code in MMA),
                wgmma=sum(count[name][code] for code in WGMMA),
            )
            for name, numbers in of_cubin.items()
        }
        for of_cubin, count in zip(used, counts, strict=True)
    ]


def _usage(cubin: bytes) -> dict[str, dict[str, int]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = _run("cuobjdump", "--dump-resource-usage", file.name)
    found = re.findall(r"Function (\S+?):\s*\n?\s*(REG:.*)", said)
    return {name: {key: int(n) for key, n in re.findall(r"(\w+):(\d+)", line)} for name, line in found}


def _instructions(codes: Sequence[dict[str, bytes]], arch: str) -> list[dict[str, Counter[str]]]:
    """How often each instruction occurs. One run for all kernels: nvdisasm takes 0.3 s to start."""
    starts, whole = [0], b""
    for code in (code for kernels in codes for code in kernels.values()):
        whole += code
        starts.append(len(whole))
    found: list[Counter[str]] = [Counter() for _ in starts]
    if whole:
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(whole)
            file.flush()
            listing = _run("nvdisasm", "--binary", arch.upper().replace("_", ""), "--no-dataflow", file.name)
        for offset, word in re.findall(
            r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", listing, re.MULTILINE
        ):
            found[bisect(starts, int(offset, 16)) - 1][word] += 1
    each = iter(found)
    return [{name: next(each) for name in kernels} for kernels in codes]


def _code(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """The kernels of a cubin, an ELF file with a section `.text.<kernel>` for each."""
    table, size, count, names = (
        *struct.unpack_from("<Q", cubin, 0x28),
        *struct.unpack_from("<HHH", cubin, 0x3A),
    )
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    for name, _, _, _, offset, length in sections:
        begin = sections[names][4] + name
        text = cubin[begin : cubin.index(b"\0", begin)].decode()
        if text.startswith(".text."):
            yield text.removeprefix(".text."), cubin[offset : offset + length]


def _run(name: str, *arguments: str) -> str:
    program = tool(name)
    assert program is not None
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout
