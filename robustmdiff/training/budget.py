"""How long to train on n patients, images or texts: numbers that were given are obeyed, the others adapt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robustmdiff.training.config import LoopConfig
from robustmdiff.training.notes import Note

BATCH_SIZE, EPOCHS = 64, 20  # where there is enough data
EPOCH_STEPS = 8  # a batch is at most this share of the data, or the gradient of a step is that of all others
SMALL_BATCH = 8  # but not smaller: its gradient would be noise
ENOUGH_STEPS = 300  # after which 60 patients taught no more; after 80 and 150 much less (docs/training.md)


@dataclass(frozen=True)
class Budget:
    """batch_size of `what` and epochs, with `epoch_steps` steps in each; what was adapted or is weak."""

    what: str

    batch_size: int
    epoch_steps: int
    epochs: int
    notes: tuple[Note, ...]

    @property
    def steps(self) -> int:
        return self.epochs * self.epoch_steps


def budget(n: int, config: LoopConfig, what: str = "patients") -> Budget:
    """The budget for n of `what`: of a config that gives both numbers, exactly these."""
    notes = []
    batch_size = config.batch_size or min(max(n // EPOCH_STEPS, SMALL_BATCH), BATCH_SIZE)
    if config.batch_size is None and batch_size < BATCH_SIZE:
        notes.append(
            Note(
                "batch_size",
                n,
                f"A step sees {min(n, batch_size)} {what} instead of {BATCH_SIZE}, because only {n} train.",
            )
        )
    epoch_steps = max(1, round(n / batch_size))
    epochs = config.epochs or max(EPOCHS, math.ceil(ENOUGH_STEPS / epoch_steps))
    steps = epochs * epoch_steps
    if config.epochs is None and epochs > EPOCHS:
        few = f"{EPOCHS * epoch_steps} steps would be too few"
        notes.append(
            Note("epochs", steps, f"There are {epochs} epochs instead of {EPOCHS}, {steps} steps: {few}.")
        )
    if steps < ENOUGH_STEPS:
        notes.append(
            Note(
                "steps",
                steps,
                f"There are {steps} steps in all ({epochs} epochs of {epoch_steps}), as asked: fewer than "
                f"{ENOUGH_STEPS} teach little.",
            )
        )
    return Budget(what, batch_size, epoch_steps, epochs, tuple(notes))
