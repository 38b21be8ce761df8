"""Documents shared with the evaluation data, however they are cut into chunks.

A document is a set of windows of eight words, of which the same quarter is kept everywhere, chosen
by hash. Two documents overlap where most of the kept windows of one stand in the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OVERLAP_FRAC = 0.5
"""Share of a training document's windows that must stand in one evaluation document."""

_WINDOW_WORDS = 8
_KEEP_EVERY = 4

Windows = npt.NDArray[np.uint64]
"""Sorted, each once."""


def hash_windows(document: bytes) -> Windows:
    """Kept windows of a document, given as words joined by blanks.

    None where it is shorter than one window.
    """
    words = document.split()
    num_windows = len(words) - _WINDOW_WORDS + 1
    if num_windows < 1:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.fromiter(map(zlib.crc32, words), np.uint64, len(words))
    windows = np.zeros(num_windows, dtype=np.uint64)
    for offset in range(_WINDOW_WORDS):
        # Constants of the splitmix64 generator; products wrap.
        windows = (windows + hashes[offset : offset + num_windows]) * np.uint64(0x9E3779B97F4A7C15)
        windows ^= windows >> np.uint64(29)
    windows *= np.uint64(0xBF58476D1CE4E5B9)
    windows ^= windows >> np.uint64(32)
    return np.unique(windows[windows % np.uint64(_KEEP_EVERY) == 0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalWindows:
    """All windows of the evaluation documents, sorted, with the document of each."""

    windows: Windows
    documents: npt.NDArray[np.int64]

    def overlap(self, windows: Windows) -> tuple[int, float] | None:
        """The evaluation document that holds most of a document, and the share it holds.

        None where no document holds as much as `OVERLAP_FRAC`.
        """
        if len(windows) == 0 or len(self.windows) == 0:
            return None
        first = np.searchsorted(self.windows, windows, side="left")
        after = np.searchsorted(self.windows, windows, side="right")
        hits = np.flatnonzero(after > first)
        if len(hits) < OVERLAP_FRAC * len(windows):
            return None
        found = np.concatenate([self.documents[first[hit] : after[hit]] for hit in hits])
        counts = np.bincount(found)
        best = int(np.argmax(counts))
        share = float(counts[best]) / len(windows)
        return (best, share) if share >= OVERLAP_FRAC else None


def index_windows(documents: Sequence[Windows]) -> EvalWindows:
    """Join the windows of the evaluation documents, in their order."""
    sizes = [len(windows) for windows in documents]
    joined = np.concatenate([np.zeros(0, dtype=np.uint64), *documents])
    owners = np.repeat(np.arange(len(documents)), sizes)
    order = np.argsort(joined, kind="stable")
    return EvalWindows(windows=joined[order], documents=owners[order])
