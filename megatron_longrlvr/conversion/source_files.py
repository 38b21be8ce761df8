"""Source files as they are read: parts announced before they are needed, parts copied unchanged.

Most of what conversion moves stays as it is, so it goes from file to file through a small buffer
that fits the processor's cache. The rest is read through mapped files, where a page that is not
there stops the reader until the disk has brought it; parts that are announced come while others
are being written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from megatron_longrlvr.errors import CheckpointError

# Fits the second-level cache of a core: larger buffers copied at two thirds of the speed.
COPY_BYTES = 2**18
# The system cuts a request to its read-ahead window, which is 128 KiB unless it was raised.
_REQUEST_BYTES = 128 * 2**10
# How far the disk reads ahead of what is copied: it goes on while a block is being written.
_AHEAD_BYTES = 8 * 2**20

PutValues = Callable[[int, int], None]
"""Given an open file and a byte of it, writes values there, all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRange:
    """Some bytes of a file."""

    path: Path
    start: int
    nbytes: int

    def within(self, first: int, nbytes: int) -> FileRange:
        """The bytes from one of this part on, at most so many, none beyond its end."""
        nbytes = max(min(nbytes, self.nbytes - first), 0)
        return FileRange(path=self.path, start=self.start + first, nbytes=nbytes)


class SourceFiles:
    """Files that are read by position. A context manager: they stay open within it."""

    def __init__(self) -> None:
        self._open_files = ExitStack()
        self._descriptors: dict[Path, int] = {}
        self._buffer = bytearray(COPY_BYTES)

    def __enter__(self) -> SourceFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._descriptors.clear()
        self._open_files.close()

    def announce(self, part: FileRange) -> None:
        """Begin to read a part of a file; returns before it is there."""
        if not hasattr(os, "posix_fadvise"):  # macOS; it only makes reading faster
            return
        descriptor = self._descriptor(part.path)
        end = part.start + part.nbytes
        for at in range(part.start, end, _REQUEST_BYTES):
            size = min(_REQUEST_BYTES, end - at)
            os.posix_fadvise(descriptor, at, size, os.POSIX_FADV_WILLNEED)

    def copy(self, part: FileRange, target: int, at: int) -> None:
        """Put a part of a file at a byte of an open one.

        Raises:
            CheckpointError: The part cannot be read; names its file.
            OSError: The disk that is written to is full, among others.
        """
        done = 0
        self.announce(part.within(0, _AHEAD_BYTES))
        while done < part.nbytes:
            wanted = memoryview(self._buffer)[: min(COPY_BYTES, part.nbytes - done)]
            count = self._read(part, done, wanted)
            self.announce(part.within(done + _AHEAD_BYTES, count))
            write_all(target, wanted[:count], at + done)
            done += count

    def copy_all(self, parts: Iterable[FileRange], target: int, at: int) -> None:
        """Put several parts one after the other, as :meth:`copy` does."""
        for part in parts:
            self.copy(part, target, at)
            at += part.nbytes

    def _read(self, part: FileRange, done: int, into: memoryview) -> int:
        try:
            count = os.preadv(self._descriptor(part.path), [into], part.start + done)
        except OSError as error:
            raise CheckpointError(f"cannot read {part.path}: {error}") from error
        if count == 0:
            raise CheckpointError(f"{part.path} is truncated at byte {part.start + done}")
        return count

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = self._open_files.enter_context(path.open("rb")).fileno()
        return self._descriptors[path]


def write_all(descriptor: int, data: memoryview, start: int) -> None:
    """Put bytes at a place of an open file.

    Raises:
        OSError: The disk is full, among others.
    """
    written = 0
    while written < data.nbytes:  # the system writes at most 2 GiB at once
        written += os.pwrite(descriptor, data[written:], start + written)
