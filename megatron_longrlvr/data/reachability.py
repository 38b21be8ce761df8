"""Which chunks of a document survive tokenisation and a cut at the prompt limit.

A prompt above the limit loses tokens on the left, on the right or in the middle. A chunk can be
cited and read only if its tags and all of its text are among the tokens that stay; evidence that
is not makes the context reward pay for something that the policy cannot know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from megatron_longrlvr.data.tokenizer import EncodedText


class Cut(StrEnum):
    """The side on which a prompt above the limit loses its tokens."""

    LEFT = "left"
    """The end stays, and with it the question."""

    RIGHT = "right"
    MIDDLE = "middle"
    """Half of the limit stays on either side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSpan:
    """Where a chunk stands in a rendered prompt, in characters."""

    start: int
    """Of the opening tag."""

    text_start: int
    text_end: int
    end: int
    """After the closing tag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkReach:
    """What is left of a chunk."""

    chunk_id: int
    is_rendered: bool
    """Whether the chunk stands in the prompt with its tags; the rest is 0 or false if not."""

    num_text_tokens: int
    """Tokens of the chunk's text before the cut; those shared with a tag count."""

    num_kept_text_tokens: int
    has_tags: bool
    """Whether both tags are kept."""

    has_known_tags: bool
    """Whether no token of the tags is the unknown token."""

    num_known_text_tokens: int
    """Tokens of the text, before the cut, that are not the unknown token."""

    @property
    def is_reachable(self) -> bool:
        """Whether the whole chunk is kept and holds anything."""
        return (
            self.has_tags
            and self.num_text_tokens > 0
            and self.num_kept_text_tokens == self.num_text_tokens
        )

    @property
    def is_known(self) -> bool:
        """Whether the vocabulary tells this chunk from another."""
        return self.has_known_tags and (self.num_text_tokens == 0 or self.num_known_text_tokens > 0)


def kept_tokens(num_tokens: int, *, limit: int, cut: Cut) -> tuple[range, ...]:
    """Places of the tokens that stay, as one or two ranges in order."""
    if num_tokens <= limit:
        return (range(num_tokens),)
    if cut is Cut.LEFT:
        return (range(num_tokens - limit, num_tokens),)
    if cut is Cut.RIGHT:
        return (range(limit),)
    head = limit // 2
    return (range(head), range(num_tokens - (limit - head), num_tokens))


def find_chunks(text: str, *, content: str, chunks: Sequence[str]) -> list[ChunkSpan | None]:
    """Find the chunks of a document in a rendered prompt.

    Args:
        text: The prompt, chat markup included.
        content: The message that holds the document; the template may have stripped it.
        chunks: Their texts, in order.

    Returns:
        One span a chunk; None where the template has changed or dropped it.
    """
    position = max(0, text.rfind(content.strip()))
    spans: list[ChunkSpan | None] = []
    for chunk_id, chunk in enumerate(chunks):
        opening, closing = f"<CHUNK_{chunk_id}>", f"</CHUNK_{chunk_id}>"
        start = text.find(f"{opening}{chunk}{closing}", position)
        if start < 0:
            spans.append(None)
            continue
        text_end = start + len(opening) + len(chunk)
        position = text_end + len(closing)
        spans.append(
            ChunkSpan(
                start=start,
                text_start=start + len(opening),
                text_end=text_end,
                end=position,
            )
        )
    return spans


def measure_reach(
    encoded: EncodedText,
    spans: Sequence[ChunkSpan | None],
    *,
    kept: Sequence[range],
    unknown_id: int | None,
) -> Iterator[ChunkReach]:
    """Say, chunk by chunk, what is left.

    Args:
        encoded: The whole prompt, before the cut.
        spans: From `find_chunks`.
        kept: From `kept_tokens`.
        unknown_id: The vocabulary's token for what it does not know, if it has one.
    """
    for chunk_id, span in enumerate(spans):
        if span is None:
            yield ChunkReach(
                chunk_id=chunk_id,
                is_rendered=False,
                num_text_tokens=0,
                num_kept_text_tokens=0,
                has_tags=False,
                has_known_tags=False,
                num_known_text_tokens=0,
            )
            continue
        # An empty text overlaps no token, also where both tags are one.
        body = encoded.tokens_of(span.text_start, span.text_end)
        tags = (
            encoded.tokens_of(span.start, span.text_start),
            encoded.tokens_of(span.text_end, span.end),
        )
        yield ChunkReach(
            chunk_id=chunk_id,
            is_rendered=True,
            num_text_tokens=len(body),
            num_kept_text_tokens=sum(_overlap(body, part) for part in kept),
            has_tags=all(
                len(tag) > 0 and sum(_overlap(tag, part) for part in kept) == len(tag)
                for tag in tags
            ),
            has_known_tags=all(encoded.count(unknown_id, tag) == 0 for tag in tags),
            num_known_text_tokens=len(body) - encoded.count(unknown_id, body),
        )


def _overlap(first: range, second: range) -> int:
    return max(0, min(first.stop, second.stop) - max(first.start, second.start))
