"""A small task that cannot be answered without finding every piece of evidence.

A document says who gave what to whom, one gift per chunk: giver, receiver, gift. A question names
givers; a response cites one chunk for each of them, and then says what each gave:

    <CHUNK_0>ada ben lamp</CHUNK_0>
    <CHUNK_1>cleo ada drum</CHUNK_1>
    <CHUNK_2>ben cleo rope</CHUNK_2>

    Question: ben ada

    <useful_chunks>ben <CHUNK_2> ada <CHUNK_0></useful_chunks>
    <answer>ben rope ada lamp</answer>

Every person of a document gives once and receives once, so nothing but the question tells which
chunks matter, and each piece of evidence has a look-alike: the chunk in which that person receives.
No gift occurs twice in a document, so the answer needs every piece.

Each pair of giver and gift belongs to one split, and a document holds pairs of its own split alone:
what is asked on held-out documents was stated in no training document.
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


PEOPLE = _words(
    """
    ada ben cleo dora eli fay gus hal ida jon kim leo mia ned ora pia quin rosa sam tess uma vera
    will xena yan zoe abel bea carl dina emil fred gina hugo ines jack kate liam mona nora otto
    paul rita sven tara ugo vito wanda yara zack alma bert clara dan edna finn greta hank iris
    joel kurt lena max nell
    """
)
GIFTS = _words(
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

FEWEST_PEOPLE = 24
"""Documents draw their people from the first so many, or as many as they have chunks."""

HELDOUT_EVERY = 3
"""One pair of giver and gift in so many belongs to the held-out split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyExample:
    """One question over one document."""

    chunks: tuple[str, ...]
    """"giver receiver gift"; the index is the chunk id."""

    question: str
    """"giver giver ..."."""

    evidence_chunk_ids: tuple[int, ...]
    """In the order of the question."""

    answer: str
    """"giver gift giver gift ...", in the same order."""


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
        known = PEOPLE[: max(FEWEST_PEOPLE, config.num_chunks)]
        circle = _shuffled(known, draw)[: config.num_chunks]
        # Everybody gives to the next in a circle, and the chunks are in another order.
        receivers = dict(zip(circle, circle[1:] + circle[:1], strict=True))
        givers = _shuffled(circle, draw)
        gifts = dict(zip(givers, _draw_gifts(givers, config.split, draw), strict=True))
        evidence = tuple(_shuffled(range(config.num_chunks), draw)[: config.num_evidence])
        asked = [givers[chunk_id] for chunk_id in evidence]
        return ToyExample(
            chunks=tuple(f"{giver} {receivers[giver]} {gifts[giver]}" for giver in givers),
            question=" ".join(asked),
            evidence_chunk_ids=evidence,
            answer=" ".join(f"{giver} {gifts[giver]}" for giver in asked),
        )

    def demonstration(self, index: int, *, citation_accuracy: float = 1.0) -> str:
        """A response to imitate on the ``index``-th question.

        Each citation is right with probability ``citation_accuracy``, else it is any other chunk of
        the document. The answer says what was given in the chunks cited.
        """
        example = self.example(index)
        draw = random.Random(f"demonstration/{self._name}/{index}").random
        facts = [chunk.split() for chunk in example.chunks]
        citations, answers = [], []
        for right in example.evidence_chunk_ids:
            is_wrong = draw() >= citation_accuracy
            offset = 1 + int(draw() * (len(facts) - 1)) if is_wrong else 0
            cited = (right + offset) % len(facts)
            person, gift = facts[right][0], facts[cited][2]
            citations.append(f"{person} <CHUNK_{cited}>")
            answers.append(f"{person} {gift}")
        return (
            f"<{CITATION_TAG}>{' '.join(citations)}</{CITATION_TAG}>\n"
            f"<{ANSWER_TAG}>{' '.join(answers)}</{ANSWER_TAG}>"
        )


def split_of(giver: str, gift: str) -> str:
    """The split, "train" or "heldout", that a pair belongs to; no seed moves it."""
    return "train" if zlib.crc32(f"{giver} {gift}".encode()) % HELDOUT_EVERY else "heldout"


@cache
def _gifts_of(giver: str, split: str) -> tuple[str, ...]:
    return tuple(gift for gift in GIFTS if split_of(giver, gift) == split)


def _draw_gifts(givers: Sequence[str], split: str, draw: _Draw) -> list[str]:
    """One gift for each giver, all different, each making a pair of the split."""
    used: dict[str, None] = {}
    for giver in givers:
        free = [gift for gift in _gifts_of(giver, split) if gift not in used]
        if not free:
            # Only near the largest documents, and rare there: start over.
            return _draw_gifts(givers, split, draw)
        used[free[int(draw() * len(free))]] = None
    return list(used)


def _shuffled(items: Sequence[_Item], draw: _Draw) -> list[_Item]:
    # By sorting, not random.shuffle: that one may change between versions of Python.
    ranks = [draw() for _ in items]
    return [items[place] for place in sorted(range(len(items)), key=ranks.__getitem__)]
