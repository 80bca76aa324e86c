"""Rows that cannot be read: all of them are told at once, or left out and listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from robustmdiff.data.patient import DataError

SHOWN = 20  # of the problems of a source; a table in the wrong unit has one in every row


class BadRows:
    """Gathers what is wrong with the rows of a source while the others are read.

    skip      whether they are to be left out, for whoever asks to list
    problems  a sentence for each, with file, row and column
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.problems: list[str] = []

    @contextmanager
    def row(self) -> Iterator[None]:
        """Inside, a DataError is noted and ends what is done with this row."""
        try:
            yield
        except DataError as error:
            self.problems.extend(map(str, error.args))

    def check(self) -> None:
        """Once all rows are read. Raises DataError with a sentence for each of the first problems, unless
        they are to be left out."""
        if self.problems and not self.skip:
            more = len(self.problems) - SHOWN
            raise DataError(*self.problems[:SHOWN], *([f"and {more} more"] if more > 0 else []))
