"""A small corpus whose topics and facts are known: what a synthesis should find in it.

Each document has topics of five paragraphs. A topic has words of its own, so that its paragraphs
are alike and those of other topics are not; each paragraph states one count of its own. In
document 8:

    Ledger velo8-3 of topic velo records 17 crates.

A question adds up the counts of some ledgers of a topic, so its evidence is those paragraphs, each
of them is needed, and nobody knows the answer without them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

TOPICS = ("velo", "marn", "ostri", "quell", "brith")
PARAGRAPHS = 5
_FACT = re.compile(r"Ledger (\w+-\d+) of topic \w+ records (\d+) crates\.")
_SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu", "dan", "fel", "gor")


@dataclass(frozen=True)
class Fact:
    """What one paragraph says."""

    name: str
    count: int


def facts_in(text):
    """Facts of a text, in its order."""
    return [Fact(name=name, count=int(count)) for name, count in _FACT.findall(text)]


def make_paragraphs(seed):
    """Paragraphs of a document; those of the topics take turns."""
    draw = random.Random(f"corpus/{seed}")
    words = {topic: [_word(draw) for _ in range(12)] for topic in TOPICS}
    paragraphs = []
    for number in range(PARAGRAPHS):
        for topic in TOPICS:
            filler = " ".join(draw.choices(words[topic], k=22)).capitalize()
            name, count = f"{topic}{seed}-{number}", draw.randrange(10, 99)
            fact = f"Ledger {name} of topic {topic} records {count} crates."
            paragraphs.append(f"{filler}. {fact}")
    return paragraphs


def make_document(seed):
    return "\n\n".join(make_paragraphs(seed))


def _word(draw):
    return "".join(draw.choices(_SYLLABLES, k=3))
