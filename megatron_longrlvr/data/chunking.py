"""Cut a document into chunks that the policy can cite by number.

Splitting is recursive: at the strongest separator that occurs (blank line, line, sentence,
clause), neighbouring pieces are joined again while they fit, and a piece that is still too large
is split at the next weaker separator. A separator belongs, with the white space around it, to the
piece it ends, so the chunks joined give back the document, character by character.

Paper: LongRLVR, arXiv:2603.02146; separators and their order are those of the released pipeline.
It leaves a piece without any separator too large and loses white space at chunk borders; here
such a piece is split at spaces and then in halves, and nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SEPARATORS = (
    "\n\n",
    "\n",
    ". ",
    "! ",
    "? ",
    "; ",
    ", ",
    "\u3002",  # ideographic full stop
    "\uff01",  # full-width exclamation mark
    "\uff1f",  # full-width question mark
    "\uff1b",  # full-width semicolon
    "\uff0c",  # full-width comma
    " ",
)

_NOT_SPACE = re.compile(r"\S")

_Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One citable piece of a document: ``text[start_char:end_char]``."""

    chunk_id: int
    """Place in the document, from 0."""

    start_char: int
    end_char: int


def split_into_chunks(
    text: str, *, max_tokens: int, count_tokens: Callable[[str], int]
) -> tuple[Chunk, ...]:
    """Split a document into consecutive chunks that cover it without gap or overlap.

    Args:
        text: The document.
        max_tokens: Upper bound on a chunk. Only a single character that is larger by itself
            may exceed it.
        count_tokens: Tokens of a text; need not be additive. The characters it is shown in
            total grow linearly with the document.

    Raises:
        ValueError: The document holds nothing but white space, or ``max_tokens`` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if not text.strip():
        raise ValueError("cannot split an empty document: it holds nothing but white space")
    document = _Document(text=text, max_tokens=max_tokens, count_tokens=count_tokens)
    spans = document.split((0, len(text)), SEPARATORS)
    return tuple(
        Chunk(chunk_id=chunk_id, start_char=start, end_char=end)
        for chunk_id, (start, end) in enumerate(spans)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    text: str
    max_tokens: int
    count_tokens: Callable[[str], int]

    def tokens(self, span: _Span) -> int:
        return self.count_tokens(self.text[span[0] : span[1]])

    def split(self, span: _Span, separators: Sequence[str]) -> Iterator[_Span]:
        if self.tokens(span) <= self.max_tokens:
            yield span
            return
        pieces, weaker = self._cut(span, separators)
        if len(pieces) == 1:  # A single character: nothing smaller exists.
            yield span
            return
        fitting: list[tuple[_Span, int]] = []
        for piece in pieces:
            # At least 1, so that pieces counted as nothing do not pile up before being joined.
            num_tokens = max(1, self.tokens(piece))
            if num_tokens <= self.max_tokens:
                fitting.append((piece, num_tokens))
                continue
            yield from self._join(fitting)
            fitting.clear()
            yield from self.split(piece, weaker)
        yield from self._join(fitting)

    def _cut(self, span: _Span, separators: Sequence[str]) -> tuple[list[_Span], Sequence[str]]:
        """Pieces at the first separator that divides the span, and the separators after it."""
        for index, separator in enumerate(separators):
            pieces = list(self._pieces(span, separator))
            if len(pieces) > 1:
                return pieces, separators[index + 1 :]
        start, end = span
        middle = (start + end) // 2
        return ([(start, middle), (middle, end)] if middle > start else [span]), ()

    def _pieces(self, span: _Span, separator: str) -> Iterator[_Span]:
        start, end = span
        content = self._skip_space(start, end)
        while (found := self.text.find(separator, content, end)) >= 0:
            content = self._skip_space(found + len(separator), end)
            yield start, content
            start = content
        if start < end:
            yield start, end

    def _skip_space(self, start: int, end: int) -> int:
        match = _NOT_SPACE.search(self.text, start, end)
        return match.start() if match else end

    def _join(self, pieces: Sequence[tuple[_Span, int]]) -> Iterator[_Span]:
        """Join neighbours greedily; every piece fits by itself."""
        first = 0
        while first < len(pieces):
            after, total = first, 0
            while after < len(pieces) and total + pieces[after][1] <= self.max_tokens:
                total += pieces[after][1]
                after += 1
            # A tokenizer may count more for the whole than for its parts; halving keeps the
            # number of further counts logarithmic.
            while after - first > 1 and self.tokens(_hull(pieces[first:after])) > self.max_tokens:
                after = first + (after - first) // 2
            yield _hull(pieces[first:after])
            first = after


def _hull(pieces: Sequence[tuple[_Span, int]]) -> _Span:
    return pieces[0][0][0], pieces[-1][0][1]
