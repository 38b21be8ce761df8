"""Text as every later stage sees it: one form of Unicode, no control characters, tidy lines."""

from __future__ import annotations

import re
import unicodedata
import zlib

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

NUM_PERMUTATIONS = 128
_SHINGLE_TOKENS = 5
# Shingles hashed at a time: 2 MB of permuted values.
_BATCH_SHINGLES = 4096
# Of a document, from its middle, where its language is looked at: front and end matter differ.
_LANGUAGE_CHARS = 20_000
# Everything that prints nothing, but for line ends and tabs; halves of surrogate pairs too.
_UNPRINTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff\ud800-\udfff]")
_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def clean_text(text: str) -> str:
    """Normalise a document; doing so twice changes nothing.

    Line ends become line feeds, Unicode its composed form; characters that print nothing, white
    space at the end of lines and more than two line ends in a row go.
    """
    text = unicodedata.normalize("NFC", _LINE_END.sub("\n", text))
    lines = (line.rstrip() for line in _UNPRINTED.sub("", text).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def detect_language(text: str) -> str:
    """Most likely language of a text's middle, by its code of ISO 639-1."""
    # Reads its model from disk when it is imported.
    import py3langid

    start = max(0, (len(text) - _LANGUAGE_CHARS) // 2)
    language, _ = py3langid.classify(text[start : start + _LANGUAGE_CHARS])
    return str(language)


def sketch_tokens(token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """MinHash of a text's shingles of five tokens.

    Args:
        token_ids: [T], T > 0.

    Returns:
        [NUM_PERMUTATIONS]
    """
    size = min(_SHINGLE_TOKENS, len(token_ids))
    windows = np.lib.stride_tricks.sliding_window_view(token_ids.astype(np.uint32), size)
    hashes = np.unique(np.array([zlib.crc32(window.tobytes()) for window in windows], np.uint32))
    sketch = MinHash(num_perm=NUM_PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    for start in range(0, len(hashes), _BATCH_SHINGLES):
        sketch.update_batch(hashes[start : start + _BATCH_SHINGLES].tolist())
    return np.asarray(sketch.hashvalues, dtype=np.uint32)
