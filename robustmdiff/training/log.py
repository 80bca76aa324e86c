"""What happened: metrics.jsonl, one line per step, and TensorBoard through Accelerate."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole


class TrainingError(Refusal):
    """Training cannot go on; the message says at which step and what to try."""


class Log:
    """Lines of metrics.jsonl wait in memory, as tensors on their device, until `flush`: one
    transfer for many steps. A resumed run first drops what the checkpoint has not seen."""

    def __init__(self, accelerator: Accelerator, out_dir: Path, step: int) -> None:
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self.path = out_dir / "metrics.jsonl"
        self._pending: list[tuple[dict[str, Any], list[str], Tensor]] = []
        if self.main:
            _keep_until(self.path, step)
        purge = {"tensorboard": {"purge_step": step + 1}} if step else {}
        accelerator.init_trackers("tensorboard", init_kwargs=purge)

    def step(self, row: dict[str, Any], names: list[str], values: Tensor) -> None:
        """One step: plain values, and a vector with its names: losses, and norms of gradients (grad...)."""
        self._pending.append((row, names, values))

    def flush(self) -> dict[str, float]:
        """Write the waiting steps; the mean of each number over those that have it. TrainingError at a loss
        that is not finite."""
        if not self._pending:
            return {}
        flat = iter(torch.cat([values for _, _, values in self._pending]).tolist())
        numbers = [{name: next(flat) for name in names} for _, names, _ in self._pending]
        rows = [row | own for (row, _, _), own in zip(self._pending, numbers, strict=True)]
        self._pending.clear()
        self._write(rows)
        for row, own in zip(rows, numbers, strict=True):
            bad = [name for name, x in own.items() if not name.startswith("grad") and not math.isfinite(x)]
            if bad:
                raise TrainingError(
                    f"step {row['step']}: {bad[-1]} is {row[bad[-1]]}, expected a finite number; the last "
                    "checkpoint is from before it; try a lower learning_rate or precision fp32"
                )
        said: dict[str, list[float]] = {}
        for own in numbers:
            for name, x in own.items():
                said.setdefault(name, []).append(x)
        mean = {name: sum(of) / len(of) for name, of in said.items()}
        self.accelerator.log({f"train/{k}": v for k, v in mean.items()}, step=rows[-1]["step"])
        return mean

    def valid(self, row: dict[str, Any], metrics: dict[str, float]) -> None:
        self._write([row | {f"valid/{name}": value for name, value in metrics.items()}])
        self.accelerator.log({f"valid/{k}": v for k, v in metrics.items()}, step=row["step"])

    def close(self) -> None:
        for tracker in self.accelerator.trackers:  # end_training would end the process group as well
            tracker.finish()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.main:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
            except OSError as e:
                raise TrainingError(f"cannot write {self.path}: {e}; the last checkpoint is intact") from e


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break  # the rest was cut off, or will be made again
        kept.append(line)
    write_whole(path, "".join(kept).encode())
