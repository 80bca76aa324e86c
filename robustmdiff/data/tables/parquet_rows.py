"""The rows of a .parquet, in blocks. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustmdiff.data.patient import DataError
from robustmdiff.data.tables.cells import written

BLOCK = 1024  # rows in memory at a time


def parquet_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """("file.parquet", names), then ("file.parquet, row 1", cells) and so on. A null is blank, a whole
    number has no point, dates and times are written as ISO 8601. Raises DataError for a file that
    cannot be read and for columns of lists, structures or bytes."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path.name}: needs pyarrow, expected it installed (pip install 'robustmdiff[tables]')"
        ) from error

    row = 0
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield path.name, list(file.schema_arrow.names)
            for field in file.schema_arrow:
                _check_type(path, field)
            for batch in file.iter_batches(batch_size=BLOCK):
                columns = [_texts(column) for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    row += 1
                    yield f"{path.name}, row {row}", list(cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path.name}, after row {row}: cannot be read as Parquet ({said})") from error


def _check_type(path: Path, field: Any) -> None:
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        raise DataError(
            f"{path.name}: column {field.name!r} holds {field.type}, "
            "expected texts, numbers, booleans or dates"
        )


def _texts(column: Any) -> list[str]:
    import pyarrow as pa
    from pyarrow import types

    if types.is_temporal(column.type):
        column = column.cast(pa.string())
    return ["" if value is None else written(value) for value in column.to_pylist()]
