"""What is kept as one JSON file, written whole or not at all."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from robustmdiff.refusal import Refusal
from robustmdiff.whole import write_whole


class Saved(ABC):
    @abstractmethod
    def state(self) -> dict[str, Any]:
        """In JSON's types."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Raises any of the errors that `load` catches for what is no state."""

    def save(self, path: str | Path) -> None:
        write_whole(Path(path), json.dumps(self.state()).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises Refusal for a file that `save` did not write, or that was damaged since."""
        try:
            return cls.from_state(json.loads(Path(path).read_text(encoding="utf-8")))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Refusal(f"{path}: not a saved {cls.__name__} ({error!r})") from error
