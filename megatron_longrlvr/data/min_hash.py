"""MinHash sketches in one array, and which of them agree in a whole band.

datasketch makes the sketches and chooses the bands. Its own index holds a Python set for each band
and text; here each band of the array is sorted instead, so that a text costs a few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from datasketch import MinHashLSH

# A missed candidate is lost, a wrong one only costs a comparison.
_BAND_WEIGHTS = (0.1, 0.9)

Sketches = npt.NDArray[np.uint32]
"""[texts, permutations]"""


def iter_buckets(sketches: Sketches, *, similarity: float) -> Iterator[npt.NDArray[np.int64]]:
    """Places of texts that agree in a whole band, ascending; those of every band one by one.

    Args:
        sketches: One row a text.
        similarity: Jaccard similarity from which two texts should meet in some bucket.
    """
    num_perm = sketches.shape[1]
    index = MinHashLSH(threshold=similarity, num_perm=num_perm, weights=_BAND_WEIGHTS)
    for band in range(index.b):
        keys = _fold(sketches[:, band * index.r : (band + 1) * index.r])
        order = np.argsort(keys, kind="stable")
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        starts = np.concatenate(([0], edges))
        ends = np.concatenate((edges, [len(order)]))
        for place in np.flatnonzero(ends - starts > 1):
            yield order[starts[place] : ends[place]]


def _fold(columns: Sketches) -> npt.NDArray[np.uint64]:
    """One number a row; equal rows agree, and others hardly ever do."""
    keys = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        # 64-bit FNV prime; the product wraps.
        keys = (keys ^ column) * np.uint64(0x100000001B3)
        keys ^= keys >> np.uint64(32)
    return keys
