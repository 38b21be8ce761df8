"""Rows of data files as they are stored, in batches that are read here and decoded anywhere.

Reading is cheap and sequential, decoding is neither; the two are apart, so that a batch can be
handed to another process in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.data.records import FIELDS
from megatron_longrlvr.data.strict_json import without_repeats
from megatron_longrlvr.errors import DataError

# Rows read at a time: at 200 KB of text a row, about 13 MB.
BATCH_ROWS = 64

_PARQUET_BUFFER_BYTES = 2**20
"""For each column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawBatch:
    """Consecutive rows of one file, not decoded yet."""

    path: Path
    first_number: int
    """Line or row of the first, from 1."""

    rows: Any
    """Lines as bytes, or a ``pyarrow.RecordBatch``."""

    @property
    def holds_records(self) -> bool:
        """Whether there is anything but blank lines."""
        return not isinstance(self.rows, tuple) or any(line.strip() for line in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One decoded row, or why it could not be decoded."""

    path: Path
    number: int
    """Line or row in the file, from 1."""

    content: object
    problem: str | None = None
    """None where ``content`` is what the file holds."""


def iter_batches(path: Path) -> Iterator[RawBatch]:
    """Read a file, a few rows at a time.

    Raises:
        DataError: The file is absent, of an unknown kind or, at any point of it, unreadable.
    """
    if not path.is_file():
        raise DataError(f"no data file {path}")
    readers = {".jsonl": _iter_line_batches, ".parquet": _iter_parquet_batches}
    reader = readers.get(path.suffix)
    if reader is None:
        raise DataError(f"{path} must end in {' or '.join(readers)}")
    yield from reader(path)


def decode_batch(batch: RawBatch) -> Iterator[RawRow]:
    """Decode rows in order; blank lines are passed over and counted as lines."""
    if isinstance(batch.rows, tuple):
        for number, line in enumerate(batch.rows, start=batch.first_number):
            if line.strip():
                yield _decode_line(line, path=batch.path, number=number)
        return
    for offset in range(batch.rows.num_rows):
        yield _decode_row(batch, offset)


def _decode_row(batch: RawBatch, offset: int) -> RawRow:
    number = batch.first_number + offset
    try:
        return RawRow(path=batch.path, number=number, content=read_row(batch.rows, offset))
    except ValueError as error:
        return RawRow(path=batch.path, number=number, content=None, problem=str(error))


def read_row(rows: Any, offset: int) -> object:  # noqa: ANN401 - pyarrow has no types
    """One row of a pyarrow table or batch.

    Raises:
        ValueError: No Python value stands for a cell: a text of broken UTF-8, or a date beyond the
            calendar.
    """
    import pyarrow

    try:
        return rows.slice(offset, 1).to_pylist()[0]
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise ValueError(f"a cell cannot be read: {error}") from error


def _decode_line(line: bytes, *, path: Path, number: int) -> RawRow:
    try:
        content = json.loads(line.decode("utf-8"), object_pairs_hook=without_repeats)
        if b"\\ud" in line.lower():
            # Half of a surrogate pair is JSON, but no text that could be tokenised.
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        problem = f"not a JSON record: {error}"
        return RawRow(path=path, number=number, content=None, problem=problem)
    return RawRow(path=path, number=number, content=content)


def _iter_line_batches(path: Path) -> Iterator[RawBatch]:
    first_number = 1
    # Read as bytes, so that a line of broken UTF-8 can be named.
    with path.open("rb") as file:
        lines: list[bytes] = []
        for line in file:
            lines.append(line)
            if len(lines) == BATCH_ROWS:
                yield RawBatch(path=path, first_number=first_number, rows=tuple(lines))
                first_number += len(lines)
                lines = []
        if lines:
            yield RawBatch(path=path, first_number=first_number, rows=tuple(lines))


def _iter_parquet_batches(path: Path) -> Iterator[RawBatch]:
    # Kept out of the import of this module: JSON lines need no pyarrow.
    import pyarrow
    from pyarrow import parquet

    num_read = 0
    try:
        # By default a row group's columns are read at once, and it may be the whole file.
        # What is read whole even so is a page, 1024 values as most writers make it.
        with parquet.ParquetFile(
            path, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False
        ) as table:
            columns = [name for name in table.schema_arrow.names if name in FIELDS]
            for rows in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield RawBatch(path=path, first_number=num_read + 1, rows=rows)
                num_read += rows.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: unreadable parquet after row {num_read}: {error}") from error
