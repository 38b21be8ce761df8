"""Near-duplicate questions: MinHash sketches, banded into candidates, then compared exactly."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from megatron_longrlvr.data.min_hash import Sketches, iter_buckets

NUM_PERMUTATIONS = 64
SIMILARITY = 0.8
"""Jaccard similarity of 5-character shingles from which two questions are near-duplicates."""

_SHINGLE_CHARS = 5
_MAX_COMPARED = 8
"""Members of a bucket that each further one is compared with, for huge buckets of equals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A question and the one it nearly repeats, by their places."""

    place: int
    earlier: int
    similarity: float


def sketch_questions(questions: Sequence[str]) -> Sketches:
    """Sketch questions, each given as its words joined by blanks."""
    shingles = [[piece.encode() for piece in _shingles(question)] for question in questions]
    hashes = MinHash.generator(
        shingles, num_perm=NUM_PERMUTATIONS, seed=1, hashfunc=zlib.crc32, scheme="affine32"
    )
    rows = [minhash.hashvalues for minhash in hashes]
    return np.array(rows, dtype=np.uint32).reshape(len(questions), NUM_PERMUTATIONS)


def match_questions(
    questions: Sequence[str], sketches: Sketches, *, num_eval: int
) -> tuple[dict[int, Match], dict[int, Match]]:
    """Find for each training question one that it nearly repeats.

    Args:
        questions: As sketched; the evaluation's first, then the training's in file order.
        sketches: One row a question.
        num_eval: How many of them are the evaluation's.

    Returns:
        By place, matches with the evaluation's questions, and with earlier training questions.
    """
    with_eval: dict[int, Match] = {}
    with_train: dict[int, Match] = {}
    for bucket in iter_buckets(sketches, similarity=SIMILARITY):
        split = int(np.searchsorted(bucket, num_eval))
        for offset, place in enumerate(bucket[split:], start=split):
            eval_places = bucket[: min(split, _MAX_COMPARED)]
            train_places = bucket[max(split, offset - _MAX_COMPARED) : offset]
            if place not in with_eval:
                _note(questions, int(place), eval_places, with_eval)
            if place not in with_train:
                _note(questions, int(place), train_places, with_train)
    return with_eval, with_train


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two questions' shingles."""
    if first == second:
        return 1.0
    left, right = _shingles(first), _shingles(second)
    return len(left & right) / len(left | right)


def _note(
    questions: Sequence[str],
    place: int,
    candidates: npt.NDArray[np.int64],
    matches: dict[int, Match],
) -> None:
    for earlier in map(int, candidates):
        alike = similarity(questions[place], questions[earlier])
        if alike >= SIMILARITY:
            matches[place] = Match(place=place, earlier=earlier, similarity=alike)
            return


def _shingles(question: str) -> set[str]:
    text = f" {question} "
    return {
        text[start : start + _SHINGLE_CHARS]
        for start in range(max(1, len(text) - _SHINGLE_CHARS + 1))
    }
