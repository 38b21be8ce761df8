"""A small task that cannot be answered without finding every piece of evidence.

A document states facts, one per chunk: key, attribute, value. A question names an attribute and
keys; a response cites one chunk for each key, and then gives each key's value:

    <CHUNK_0>ada gift lamp</CHUNK_0>
    <CHUNK_1>ada tool drum</CHUNK_1>
    <CHUNK_2>ben gift rope</CHUNK_2> ...

    Question: gift ben ada

    <useful_chunks>ben <CHUNK_2> ada <CHUNK_0></useful_chunks>
    <answer>ben rope ada lamp</answer>

Every key of a document has the same attributes, so nothing but the question tells which chunks
matter, and each piece of evidence has look-alikes: its key with the other attributes, its attribute
with the other keys. No value occurs twice in a document, so the answer needs every piece.

Each fact belongs to one split, and a document holds facts of its own split alone: what is asked on
held-out documents was stated in no training document.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.response_format import ANSWER_TAG, CITATION_TAG


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ATTRIBUTES = ("gift", "tool", "prize", "wish")
KEYS = _words(
    """
    ada ben cleo dora eli fay gus hal ida jon kim leo mia ned ora pia quin rosa sam tess
    """
)
VALUES = _words(
    """
    acorn anvil apple arrow badge bagel banjo basil beads bench berry boots bowl brick broom
    brush bucket cactus candle canoe cape carpet chair chalk cherry clock cloud coin comb
    compass coral crown dagger daisy drum easel feather fern fiddle flag flute fork garlic
    globe glove grape hammer harp hat helmet honey horn ink jacket jar jewel kettle key kite
    ladder lamp lantern leaf lemon lens lily lock map marble mask medal melon mirror mitten
    needle nut oar olive onion orchid paddle pearl pebble pencil pepper pillow plum pump quilt
    radio ribbon ring robe rope saddle scarf
    """
)

_Item = TypeVar("_Item")

_Draw = Callable[[], float]

HELDOUT_EVERY = 3
"""One fact in so many belongs to the held-out split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyExample:
    """One question over one document."""

    chunks: tuple[str, ...]
    """Facts, "key attribute value"; the index is the chunk id."""

    question: str
    """"attribute key key ..."."""

    evidence_chunk_ids: tuple[int, ...]
    """In the order of the question's keys."""

    answer: str
    """"key value key value ...", in the same order."""


class ToyTask:
    """Examples and demonstrations, each a pure function of the configuration and an index."""

    def __init__(self, config: ToyTaskConfig) -> None:
        self._config = config
        self._name = f"{config.seed}/{config.split}"

    def example(self, index: int) -> ToyExample:
        """The ``index``-th question of the split, from 0."""
        if index < 0:
            raise ValueError(f"a toy example's index must be at least 0, got {index}")
        config = self._config
        # Python promises the same random() for the same text seed in every version.
        draw = random.Random(f"example/{self._name}/{index}").random
        keys = _shuffled(KEYS, draw)[: config.num_chunks // config.num_attributes]
        attributes = _shuffled(ATTRIBUTES, draw)[: config.num_attributes]
        pairs = _shuffled([(key, attribute) for key in keys for attribute in attributes], draw)
        values = _draw_values(pairs, config.split, draw)
        value_by_pair = dict(zip(pairs, values, strict=True))
        # Keys and attributes stand in random order already; the chunks do not tell it.
        attribute, asked = attributes[0], keys[: config.num_evidence]
        return ToyExample(
            chunks=tuple(f"{key} {about} {value}" for (key, about), value in value_by_pair.items()),
            question=" ".join((attribute, *asked)),
            evidence_chunk_ids=tuple(pairs.index((key, attribute)) for key in asked),
            answer=" ".join(f"{key} {value_by_pair[key, attribute]}" for key in asked),
        )

    def demonstration(self, index: int, *, citation_accuracy: float = 1.0) -> str:
        """A response to imitate on the ``index``-th question.

        Each citation is right with probability ``citation_accuracy``, else it is a look-alike: the
        same key with another attribute. The answer gives the values of the chunks cited.
        """
        example = self.example(index)
        draw = random.Random(f"demonstration/{self._name}/{index}").random
        facts = [chunk.split() for chunk in example.chunks]
        citations, answers = [], []
        for chunk_id in example.evidence_chunk_ids:
            key = facts[chunk_id][0]
            others = [i for i, fact in enumerate(facts) if fact[0] == key and i != chunk_id]
            is_right = draw() < citation_accuracy or not others
            cited = chunk_id if is_right else others[int(draw() * len(others))]
            citations.append(f"{key} <CHUNK_{cited}>")
            answers.append(f"{key} {facts[cited][2]}")
        return (
            f"<{CITATION_TAG}>{' '.join(citations)}</{CITATION_TAG}>\n"
            f"<{ANSWER_TAG}>{' '.join(answers)}</{ANSWER_TAG}>"
        )


def split_of(key: str, attribute: str, value: str) -> str:
    """The split, "train" or "heldout", that a fact belongs to; no seed moves it."""
    fact = f"{key} {attribute} {value}".encode()
    return "train" if zlib.crc32(fact) % HELDOUT_EVERY else "heldout"


@cache
def _values_of(key: str, attribute: str, split: str) -> tuple[str, ...]:
    return tuple(value for value in VALUES if split_of(key, attribute, value) == split)


def _draw_values(pairs: Sequence[tuple[str, str]], split: str, draw: _Draw) -> list[str]:
    """One value for each pair, all different, each making a fact of the split."""
    used: dict[str, None] = {}
    for key, attribute in pairs:
        choices = _values_of(key, attribute, split)
        free = [value for value in choices if value not in used]
        if not free:
            # Only near the largest documents, and rare there: start over.
            return _draw_values(pairs, split, draw)
        used[free[int(draw() * len(free))]] = None
    return list(used)


def _shuffled(items: Sequence[_Item], draw: _Draw) -> list[_Item]:
    # By sorting, not random.shuffle: that one may change between versions of Python.
    ranks = [draw() for _ in items]
    return [items[place] for place in sorted(range(len(items)), key=ranks.__getitem__)]
