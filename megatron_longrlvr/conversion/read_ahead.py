"""Asking the system to read parts of files before they are needed.

Both formats are read through mapped files, where a page that is not there stops the reader until
the disk has brought it. Parts that are announced come while others are being written.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

# The system cuts a request to its read-ahead window, which is 128 KiB unless it was raised.
_REQUEST_BYTES = 128 * 2**10


class ReadAhead:
    """Files whose parts are announced. A context manager: they stay open within it."""

    def __init__(self) -> None:
        self._open_files = ExitStack()
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._descriptors.clear()
        self._open_files.close()

    def announce(self, path: Path, start: int, nbytes: int) -> None:
        """Begin to read a part of a file; returns before it is there."""
        if not hasattr(os, "posix_fadvise"):  # macOS; it only makes reading faster
            return
        if path not in self._descriptors:
            self._descriptors[path] = self._open_files.enter_context(path.open("rb")).fileno()
        for at in range(start, start + nbytes, _REQUEST_BYTES):
            size = min(_REQUEST_BYTES, start + nbytes - at)
            os.posix_fadvise(self._descriptors[path], at, size, os.POSIX_FADV_WILLNEED)
