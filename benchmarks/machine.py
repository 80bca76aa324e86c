"""On what a run ran: enough to repeat it, and to tell two runs apart."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.runs import slug

ROOT = Path(__file__).parents[1]


def describe(device: str, commit: str) -> dict[str, object]:
    return {
        "machine": name(device),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "commit": commit,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "load": round(os.getloadavg()[0], 1),  # processes that ran meanwhile
    }


def name(device: str) -> str:
    """The GPU, or the processor with its cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return f"{cpu}, {os.cpu_count()} cores"


def commit() -> str:
    """The short commit, with a + where the tree differs from it; "unknown" outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    sha = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--", "robustmdiff", "kernels", "csrc", "benchmarks/*.py")
    return (sha or "unknown") + ("+" if changed else "")


def results_file(device: str, commit: str) -> Path:
    """benchmarks/results/<machine>-<commit>.jsonl"""
    return ROOT / "benchmarks" / "results" / f"{slug(name(device))}-{commit.replace('+', '-changed')}.jsonl"
