"""A table of which few entries are known, kept as those entries: P(finding | disease)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SparseTable:
    """float32 [rows, columns], NaN wherever no entry is stored (compressed sparse rows).

    shape   (rows, columns)
    rowptr  int64 [rows + 1]: row i's entries are rowptr[i] to rowptr[i + 1].
    column  int64 [n], ascending within each row.
    value   float32 [n], never NaN.

    `table[i, j]` is one entry or NaN. `numpy.asarray(table)` is the dense array: take a part first,
    for all diseases and findings of the HPO it is 1 GB.
    """

    shape: tuple[int, int]
    rowptr: np.ndarray
    column: np.ndarray
    value: np.ndarray

    @classmethod
    def of(
        cls, shape: tuple[int, int], row: np.ndarray, column: np.ndarray, value: np.ndarray
    ) -> SparseTable:
        """From entries in any order; NaN states nothing, and of several at one place the last stands.

        row, column int64 [n], value float [n]. Raises ValueError for an entry outside `shape`.
        """
        stated = ~np.isnan(value)
        row, column, value = row[stated], column[stated], value[stated].astype(np.float32)
        for name, index, size in (("row", row, shape[0]), ("column", column, shape[1])):
            outside = np.flatnonzero((index < 0) | (index >= size))
            if len(outside):
                raise ValueError(f"{name} {index[outside[0]]} of a sparse table, expected 0 to {size - 1}")
        order = np.lexsort((column, row))  # stable: entries of one place keep their order
        row, column, value = row[order], column[order], value[order]
        last = np.ones(len(row), bool)
        last[:-1] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
        rowptr = np.zeros(shape[0] + 1, np.int64)
        np.cumsum(np.bincount(row[last], minlength=shape[0]), out=rowptr[1:])
        return cls(shape, rowptr, column[last].astype(np.int64), value[last])

    @classmethod
    def empty(cls, rows: int, columns: int) -> SparseTable:
        """NaN everywhere."""
        nowhere = np.zeros(0, np.int64)
        return cls((rows, columns), np.zeros(rows + 1, np.int64), nowhere, np.zeros(0, np.float32))

    @classmethod
    def from_dense(cls, array: np.ndarray) -> SparseTable:
        """The entries of `array` [rows, columns] that are not NaN. Raises ValueError if it is no table."""
        if array.ndim != 2:
            raise ValueError(f"a table is {array.dtype} {list(array.shape)}, expected [rows, columns]")
        row, column = np.nonzero(~np.isnan(array))
        return cls.of((array.shape[0], array.shape[1]), row, column, array[row, column])

    @property
    def row(self) -> np.ndarray:
        """The row of each entry, int64 [n], ascending."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.rowptr))

    def part(self, rows: np.ndarray, columns: np.ndarray) -> SparseTable:
        """Those rows and columns, int64, each once, in the order given."""
        new_row, new_column = np.full(self.shape[0], -1), np.full(self.shape[1], -1)
        new_row[rows], new_column[columns] = np.arange(len(rows)), np.arange(len(columns))
        row, column = new_row[self.row], new_column[self.column]
        kept = (row >= 0) & (column >= 0)
        return SparseTable.of((len(rows), len(columns)), row[kept], column[kept], self.value[kept])

    def __getitem__(self, place: tuple[int, int]) -> np.float32:
        i, j = (range(size)[index] for size, index in zip(self.shape, place, strict=True))
        start, end = self.rowptr[i], self.rowptr[i + 1]
        at = start + np.searchsorted(self.column[start:end], j)
        return self.value[at] if at < end and self.column[at] == j else np.float32("nan")

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a sparse table has no dense array to share; ask for a copy")
        dense = np.full(self.shape, np.nan, np.float32 if dtype is None else dtype)
        dense[self.row, self.column] = self.value
        return dense

    def __eq__(self, other: object) -> bool:
        """Same shape and the same entries."""
        if not isinstance(other, SparseTable):
            return NotImplemented
        return self.shape == other.shape and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("rowptr", "column", "value")
        )

    __hash__ = None  # type: ignore[assignment]
