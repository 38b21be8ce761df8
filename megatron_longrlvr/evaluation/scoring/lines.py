"""Blocks of whole lines of a JSON-lines file, plain or gzip, for several processes to parse."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.errors import DataError

# A few thousand responses: enough to keep a process busy, little enough to share out evenly.
_BLOCK_BYTES = 4 * 1024**2
_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class LineBlock:
    """Consecutive whole lines."""

    content: bytes
    first_line: int
    """Number of the first line in the file, from 1."""

    is_cut: bool
    """The last line has no line end, so the writer may have been interrupted."""


def iter_blocks(path: Path, *, block_bytes: int = _BLOCK_BYTES) -> Iterator[LineBlock]:
    """Read a file block by block; no line is split, and a byte-order mark is dropped.

    Raises:
        DataError: The file is absent or unreadable.
    """
    try:
        yield from _read_blocks(path, block_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read_blocks(path: Path, block_bytes: int) -> Iterator[LineBlock]:
    with path.open("rb") as file:
        is_gzip = path.suffix == ".gz" or file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    first_line = 1
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        while content := file.read(block_bytes):
            content += file.readline()
            num_lines = content.count(b"\n")
            is_cut = not content.endswith(b"\n")
            text = content.removeprefix(_BOM) if first_line == 1 else content
            yield LineBlock(content=text, first_line=first_line, is_cut=is_cut)
            first_line += num_lines
