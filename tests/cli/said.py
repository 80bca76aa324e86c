"""The sizes of a tiny run, and what the command line says."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

DATA = ("train=40", "calibration=12", "test=12", "image_size=16")
SIZES = ("patch=8", "d_h=8", "heads=2", "layers=1", "width=16", "depth=1", "steps=2", "draws=4")
SETTINGS = ["--set", "epochs=1", *(word for size in SIZES for word in ("--set", f"model.{size}"))]
TINY = [*(word for option in DATA for word in ("--option", option)), *SETTINGS]
COMMANDS = (
    "cohort",
    "train",
    "evaluate",
    "predict",
    "explain",
    "export",
    "report",
    "benchmark",
    "verify",
    "serve",
    "info",
    "demo",
    "generate",
    "translate",
    "complete",
    "data",
    "generator",
)
GROUPS = {"data": "verify", "generator": "train"}  # and one command of each


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error; warnings may stand before it."""
        assert self.code == 2
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if not line.startswith(("warning: ", "epoch "))]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "robustmdiff", *map(str, arguments)]
