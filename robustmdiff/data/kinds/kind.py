"""What a kind of modality is. Numpy only: what needs torch is in its encoder (`robustmdiff.encoders`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from robustmdiff.data.batch import Input
from robustmdiff.data.modality import Modality
from robustmdiff.data.patient import Observation, Patient
from robustmdiff.data.tables.cells import Row
from robustmdiff.refusal import Refusal

OPEN = -1  # an axis of any length
PLAIN, JSON = "text/plain", "application/json"

Tokens = Callable[[str], list[int]] | None  # the token ids of a text
Spans = Sequence[tuple[int, int]]  # the characters [start, end) behind each token; start = end: a special one


class Spec(NamedTuple):
    """What an array of an exported graph has to be; blank stands in it where there is nothing."""

    dtype: np.dtype
    shape: tuple[int, ...]
    blank: int = 0

    def blanks(self, n: int, longest: int = 1) -> np.ndarray:
        """Of n observations, whose other open axes are this long."""
        shape = (longest if size == OPEN else size for size in self.shape[1:])
        return np.full((n, *shape), self.blank, self.dtype)


class Kind(ABC):
    """One way in which a source of information speaks.

    settings  those of "shape", "channels" and "fields" that a `Modality` of this kind may have
    media     what a request carries an observation as: PLAIN text, JSON, or else a file of these types
    needs     packages beside numpy that read it where there is no torch
    """

    settings: tuple[str, ...] = ()
    media: str = JSON
    needs: tuple[str, ...] = ()

    def check(self, modality: Modality, where: str) -> None:
        """Raises Refusal, which begins with `where`, for a modality that cannot be meant."""
        if modality.encoder is not None and ":" not in modality.encoder:
            raise Refusal(
                f"{where}: encoder is {modality.encoder!r}, expected 'package.module:Class' or none: there "
                f"are no transformers models of {modality.kind}"
            )

    def columns(self, modality: Modality) -> list[tuple[str, ...]]:
        """The columns of a table; of those in one tuple, exactly one is there."""
        return [(modality.name,)]

    @abstractmethod
    def read(self, row: Row, modality: Modality, root: Path, cache: Path | None) -> Observation | None:
        """What a row says, whose files lie under `root`; None where that is nothing. Raises DataError."""

    @abstractmethod
    def pack(
        self, modality: Modality, rows: np.ndarray, patients: Sequence[Patient], tokens: Tokens
    ) -> Input[Any]:
        """The observations of the n patients who have one, checked; their rows in the batch, int64 [n].
        Raises DataError."""

    # In an exported graph, and as tensors of a client

    @abstractmethod
    def specs(self, modality: Modality) -> dict[str, Spec]:
        """The arrays of n observations by name. The first axis is n; a second one that is open is the words
        of a text."""

    def arrays(self, packed: Any) -> dict[str, np.ndarray]:
        """Packed observations as `specs` has them."""
        return {name: x for name, x in packed._asdict().items() if name != "rows"}

    def check_arrays(  # noqa: B027
        self, modality: Modality, arrays: dict[str, np.ndarray], entries: int, longest: int
    ) -> None:
        """Raises DataError for arrays, finite and of these `specs`, that are no observations; `entries` of a
        tokenizer, and the `longest` text."""

    # In a request

    @abstractmethod
    def expected(self, modality: Modality) -> str:
        """What an observation is, in words."""

    def schema(self, modality: Modality) -> dict[str, Any]:
        """The JSON Schema of an observation that comes as JSON."""
        return {}

    def from_json(self, given: Any) -> Any:
        """The observation that JSON says. Raises DataError."""
        return given

    def from_file(self, path: Path, modality: Modality) -> Any:
        """The observation that a file holds. Raises Unreadable."""
        raise NotImplementedError

    # In an explanation

    def told(self, modality: Modality, observed: Any, parts: Any, spans: Spans) -> Any:
        """What `Encoder.parts` gave of one observation, a tensor on the CPU, by the observation's own parts.
        Raises Refusal for parts of another shape."""
        return parts


def check_parts(modality: Modality, parts: Any, shape: tuple[int, ...]) -> None:
    if parts.shape != shape:
        raise Refusal(
            f"modality {modality.name!r}: the encoder's parts are {list(parts.shape)}, "
            f"expected {list(shape)}, as many as the observation has"
        )
