"""The kinds of a modality, one file each: in which columns of a table it stands, how it is read from
there, and how patients' observations are packed.

A kind more is a file here with a line in KINDS, what it declares in `data.task`, its packed form in
`data.batch`, and its encoder with a line in the encoders' table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robustmdiff.data.batch import Input
from robustmdiff.data.kinds import image, text, values
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.tables.cells import Row
from robustmdiff.data.task import Modality


class Kind(Protocol):
    """What each of the files here offers."""

    def columns(self, modality: Modality) -> list[tuple[str, ...]]:
        """The columns of a table; of those in one tuple, exactly one is there."""
        ...

    def read(self, row: Row, modality: Modality, root: Path, cache: Path | None) -> Observation | None:
        """What a row says, whose files lie under `root`; None where that is nothing. Raises DataError."""
        ...

    def pack(
        self,
        modality: Modality,
        rows: np.ndarray,
        patients: Sequence[Patient],
        tokens: Callable[[str], list[int]] | None,
    ) -> Input[Any]:
        """The observations of the n patients who have one, checked; their rows in the batch, int64 [n].
        `tokens` reads a text. Raises DataError."""
        ...


KINDS: Mapping[str, Kind] = {"image": image, "text": text, "values": values}
