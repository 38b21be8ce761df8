"""Response format: what a response cites and answers; rendering and two parsers.

    reasoning</think>
    <useful_chunks><CHUNK_3> <CHUNK_7></useful_chunks>
    <answer>
    text
    </answer>

``parse_strict`` is the rule of the paper's released reward, ``parse_tolerant`` reads what a careful
person would. A response is data: neither parser raises, whatever the text, and both take time
linear in its length.

Paper: LongRLVR, arXiv:2603.02146; the strict rule follows the authors' released reward code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

CITATION_TAG = "useful_chunks"
ANSWER_TAG = "answer"

_STRICT_ID = re.compile(r"<CHUNK_(\d+)>")

# Possessive quantifiers throughout: giving white space back could only make a match quadratic.
_TOLERANT_TAG = re.compile(
    r"<\s*+(?P<slash>/?+)\s*+(?:(?P<citation>useful[\s_-]?+chunks?+)|(?P<answer>answer))\s*+>",
    re.IGNORECASE,
)

# Spellings that models write for <CHUNK_3>: other case, spaces inside, one bracket missing, the id
# as the tag's only attribute. Closing tags are matched to be passed over, and an id that goes on
# (<CHUNK_105J>, <CHUNK_12-12>) is none.
_TOLERANT_ID = re.compile(
    r"<\s*+/\s*+chunk[\s_]*+\d*+"
    r"|<\s*+chunk[\s_]?+(\d++)(?![\w-])"
    r"|<\s*+chunk\s++id\s*+=\s*+[\"']?+(?:chunk[\s_]?+)?+(\d++)[\"']?+\s*+/?+\s*+>"
    r"|(?<!\w)chunk[\s_]?+(\d++)\s*+>",
    re.IGNORECASE,
)

# CHUNK_4 counts beside these only in a list of ids and nothing else: in prose it is a mention.
_LISTED_ID = re.compile(rf"{_TOLERANT_ID.pattern}|(?<!\w)chunk_(\d++)(?![\w-])", re.IGNORECASE)
_BETWEEN_LISTED = re.compile(r"(?:[\s,;&<>\[\](){}]|\band\b)*+", re.IGNORECASE)

# What a block without any id in angle brackets may cite with: CHUNK_3, [CHUNK 3], (chunk 3); or
# nothing but numbers. A range names its two ends: what lies between would be a guess.
_BARE_ID = re.compile(
    r"<\s*+/\s*+chunk[\s_]*+\d*+|(?<!\w)chunks?+[\s_#-]*+(\d++)(?!\w)", re.IGNORECASE
)
_ONLY_NUMBERS = re.compile(r"[\[({<\s]*+\d++(?:[\])}>\s]*+[,;\s][\[({<\s]*+\d++)*+[\])}>\s.,;]*+")

# Ids above this cannot name a chunk; int() refuses a text of several thousand digits.
_MAX_ID_DIGITS = 18
_NO_SUCH_CHUNK = 10**_MAX_ID_DIGITS


class ParseOutcome(StrEnum):
    """What a parser found; the first that applies, in the order of this list."""

    OK = "ok"
    """A citation block and an answer block. The citation block may list no chunk."""

    NO_BLOCKS = "no_blocks"
    """Neither block."""

    NO_CITATION = "no_citation"
    """An answer, but no complete citation block."""

    NO_ANSWER = "no_answer"
    """A citation, but no complete answer block."""

    REPEATED_CITATION = "repeated_citation"
    """More than one citation block; strict parser only."""

    REPEATED_ANSWER = "repeated_answer"
    """One citation block and more than one answer block; strict parser only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedResponse:
    """A response taken apart. Parts may be present although the outcome is not OK."""

    outcome: ParseOutcome
    cited_chunk_ids: tuple[int, ...]
    """As written: in order, with repeats, whether or not such a chunk exists. Empty without a
    citation block of its own."""

    answer: str | None
    """Stripped content of the answer block; None without one, or with several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPlaces:
    """Where the two blocks of a response stand, in characters of its text, tags included."""

    citation: range
    answer: range


def closed_blocks(text: str, tag: str) -> tuple[str, ...]:
    """Contents of ``<tag>...</tag>``, exact spelling, each from an opening to the next closing tag.

    Equals ``re.findall("<tag>(.*?)</tag>", text, re.DOTALL)``, which takes quadratic time where
    opening tags repeat and none closes.
    """
    before, after = len(f"<{tag}>"), len(f"</{tag}>")
    return tuple(text[one.start + before : one.stop - after] for one in _closed_places(text, tag))


def parse_strict(text: str) -> ParsedResponse:
    """Read a response by the paper's rule.

    Exactly one closed block of each kind, case-sensitive, counted over the whole response,
    reasoning included; order and place do not matter. Ids are exactly ``<CHUNK_digits>``.
    """
    citations = closed_blocks(text, CITATION_TAG)
    answers = closed_blocks(text, ANSWER_TAG)
    found = _STRICT_ID.findall(citations[0]) if len(citations) == 1 else ()
    return ParsedResponse(
        outcome=_outcome(num_citations=len(citations), num_answers=len(answers)),
        cited_chunk_ids=tuple(_to_chunk_id(digits) for digits in found),
        answer=answers[0].strip() if len(answers) == 1 else None,
    )


def parse_tolerant(text: str) -> ParsedResponse:
    """Read a response with case, spacing and repetition forgiven.

    Of each kind the last complete block of the response counts: one after ``</think>`` rather than
    a draft in the reasoning, but also one before it, since models close their reasoning too late or
    twice. A block runs from a closing tag back to the nearest opening tag. A missing closing tag is
    not forgiven: where the block ends would be a guess. ``<chunk id="3">`` is an id in angle
    brackets too. A citation block without one cites by ``CHUNK_3``, ``[CHUNK_3]``, ``chunk 3`` or
    bare numbers; where it lists ids and says nothing else, ``CHUNK_3`` may stand beside them.

    Wherever :func:`parse_strict` finds OK, so does this one.
    """
    tags = list(_TOLERANT_TAG.finditer(text))
    citation = _content(text, _last_block(tags, kind="citation"))
    answer = _content(text, _last_block(tags, kind="answer"))
    return ParsedResponse(
        outcome=_outcome(num_citations=citation is not None, num_answers=answer is not None),
        cited_chunk_ids=_tolerant_ids(citation or ""),
        answer=None if answer is None else answer.strip(),
    )


def places_strict(text: str) -> BlockPlaces | None:
    """Where the blocks stand that :func:`parse_strict` reads.

    None where it does not find OK, or where one block reaches into the other.
    """
    citations = _closed_places(text, CITATION_TAG)
    answers = _closed_places(text, ANSWER_TAG)
    if len(citations) != 1 or len(answers) != 1:
        return None
    return _apart(citations[0], answers[0])


def places_tolerant(text: str) -> BlockPlaces | None:
    """As :func:`places_strict`, for :func:`parse_tolerant`."""
    tags = list(_TOLERANT_TAG.finditer(text))
    citation = _last_block(tags, kind="citation")
    answer = _last_block(tags, kind="answer")
    if citation is None or answer is None:
        return None
    outer = [range(opening.start(), closing.end()) for opening, closing in (citation, answer)]
    return _apart(*outer)


def render_response(*, cited_chunk_ids: Sequence[int], answer: str, reasoning: str = "") -> str:
    """Write a response that both parsers read back.

    Raises:
        ValueError: The parts would not be read back: reasoning or answer hold block tags, the
            answer has white space around it, or an id is negative.
    """
    ids = " ".join(f"<CHUNK_{chunk_id}>" for chunk_id in cited_chunk_ids)
    thought = f"{reasoning}</think>\n" if reasoning else ""
    text = (
        f"{thought}<{CITATION_TAG}>{ids}</{CITATION_TAG}>\n"
        f"<{ANSWER_TAG}>\n{answer}\n</{ANSWER_TAG}>"
    )
    wanted = ParsedResponse(
        outcome=ParseOutcome.OK, cited_chunk_ids=tuple(cited_chunk_ids), answer=answer
    )
    if parse_strict(text) != wanted or parse_tolerant(text) != wanted:
        raise ValueError(
            f"a response citing {list(cited_chunk_ids)} and answering {answer!r} would not be read "
            "back; keep tags out of reasoning and answer, white space off the answer's ends, and "
            "chunk ids at 0 or above"
        )
    return text


def _outcome(*, num_citations: int, num_answers: int) -> ParseOutcome:
    if not num_citations and not num_answers:
        return ParseOutcome.NO_BLOCKS
    if not num_citations:
        return ParseOutcome.NO_CITATION
    if not num_answers:
        return ParseOutcome.NO_ANSWER
    if num_citations > 1:
        return ParseOutcome.REPEATED_CITATION
    return ParseOutcome.REPEATED_ANSWER if num_answers > 1 else ParseOutcome.OK


def _closed_places(text: str, tag: str) -> list[range]:
    opening, closing = f"<{tag}>", f"</{tag}>"
    places = []
    end = 0
    while (start := text.find(opening, end)) >= 0:
        stop = text.find(closing, start + len(opening))
        if stop < 0:
            break
        end = stop + len(closing)
        places.append(range(start, end))
    return places


def _apart(citation: range, answer: range) -> BlockPlaces | None:
    if citation.start < answer.stop and answer.start < citation.stop:
        return None
    return BlockPlaces(citation=citation, answer=answer)


def _last_block(
    tags: Sequence[re.Match[str]], *, kind: str
) -> tuple[re.Match[str], re.Match[str]] | None:
    block: tuple[re.Match[str], re.Match[str]] | None = None
    opening: re.Match[str] | None = None
    for tag in tags:
        if tag[kind] is None:
            continue
        if not tag["slash"]:
            opening = tag
        elif opening is not None:
            block = opening, tag
            opening = None
    return block


def _content(text: str, block: tuple[re.Match[str], re.Match[str]] | None) -> str | None:
    return None if block is None else text[block[0].end() : block[1].start()]


def _tolerant_ids(block: str) -> tuple[int, ...]:
    spelled = _spelled(_TOLERANT_ID, block)
    if spelled and _BETWEEN_LISTED.fullmatch(_LISTED_ID.sub(" ", block)):
        spelled = _spelled(_LISTED_ID, block)
    spelled = spelled or _spelled(_BARE_ID, block)
    if not spelled and _ONLY_NUMBERS.fullmatch(block):
        spelled = re.findall(r"\d++", block)
    return tuple(_to_chunk_id(digits) for digits in spelled)


def _spelled(id_pattern: re.Pattern[str], block: str) -> list[str]:
    """Digits of each id; a match without a group is none."""
    matches = id_pattern.finditer(block)
    return [match[match.lastindex] for match in matches if match.lastindex]


def _to_chunk_id(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= _MAX_ID_DIGITS else _NO_SUCH_CHUNK
