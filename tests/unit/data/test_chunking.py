"""Chunking: chunks tile the document in order, fit the budget, and break at the best separator.

The bound is measured with the counter that was given, on the final chunk, for counters that are
additive (characters), sub-additive (words) and super-additive (as a tokenizer may be at a seam).
"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.data.chunking import SEPARATORS, Chunk, split_into_chunks


def count_words(text: str) -> int:
    return len(text.split())


def count_bytes(text: str) -> int:
    return len(text.encode())


def count_with_seams(text: str) -> int:
    """Grow faster than the sum of the parts: joining two pieces costs extra."""
    return len(text) + len(text) ** 2 // 64


COUNTERS = {"chars": len, "words": count_words, "bytes": count_bytes, "seams": count_with_seams}

documents = st.lists(
    st.one_of(st.sampled_from(SEPARATORS), st.text(alphabet="ab \n\u6f22\U0001f600", max_size=30)),
    max_size=60,
).map("".join)


def texts_of(text: str, max_tokens: int) -> list[str]:
    chunks = split_into_chunks(text, max_tokens=max_tokens, count_tokens=len)
    return [text[chunk.start_char : chunk.end_char] for chunk in chunks]


@pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)
@given(text=documents.filter(str.strip), max_tokens=st.integers(1, 40))
def test_chunks_tile_the_document_and_fit(counter, text, max_tokens):
    chunks = split_into_chunks(text, max_tokens=max_tokens, count_tokens=counter)
    assert [chunk.chunk_id for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].start_char == 0
    assert chunks[-1].end_char == len(text)
    for chunk, following in itertools.pairwise(chunks):
        assert chunk.end_char == following.start_char
    pieces = [text[chunk.start_char : chunk.end_char] for chunk in chunks]
    assert "".join(pieces) == text
    assert all(pieces)
    assert all(counter(piece) <= max_tokens or len(piece) == 1 for piece in pieces)


def test_document_that_fits_is_one_chunk():
    assert split_into_chunks("a. b", max_tokens=4, count_tokens=len) == (
        Chunk(chunk_id=0, start_char=0, end_char=4),
    )


@pytest.mark.parametrize(
    ("text", "max_tokens", "expected"),
    [
        # A blank line is stronger than a line: "cc" and "dd" stay together, "bb" goes alone.
        pytest.param("aa\nbb\n\ncc\ndd", 7, ["aa\nbb\n\n", "cc\ndd"], id="blank-line-first"),
        # 4 + 4 = 8 characters fit, a third sentence does not.
        pytest.param("A a. B b. C c.", 10, ["A a. B b. ", "C c."], id="joins-while-it-fits"),
        # The first paragraph is too long and is split at its comma; the second is left whole.
        pytest.param("aaaa, b\n\nccc", 7, ["aaaa, ", "b\n\n", "ccc"], id="weaker-separator"),
        pytest.param(
            "\u4e00\u4e8c\u3002\u4e09\u56db", 3, ["\u4e00\u4e8c\u3002", "\u4e09\u56db"], id="cjk"
        ),
        pytest.param("aaaa bbbb", 5, ["aaaa ", "bbbb"], id="words"),
        # Eight characters, at most 3: halves of 4 are still too long, quarters of 2 fit.
        pytest.param("abcdefgh", 3, ["ab", "cd", "ef", "gh"], id="halves"),
    ],
)
def test_breaks_where_worked_out_by_hand(text, max_tokens, expected):
    assert texts_of(text, max_tokens) == expected


def test_character_larger_than_the_budget_stands_alone():
    chunks = split_into_chunks("a\U0001f600b", max_tokens=2, count_tokens=count_bytes)
    assert ["a\U0001f600b"[c.start_char : c.end_char] for c in chunks] == ["a", "\U0001f600", "b"]


@pytest.mark.parametrize("text", ["", " \n\t\u3000"], ids=["nothing", "white-space"])
def test_document_without_content_is_refused(text):
    with pytest.raises(ValueError, match="empty document"):
        split_into_chunks(text, max_tokens=8, count_tokens=len)


def test_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        split_into_chunks("a", max_tokens=0, count_tokens=len)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word, and " * 20 + ".\n" + "Next one here. " * 19_980, id="prose"),
        pytest.param("x" * 300_000, id="one-word"),
        pytest.param("\n" * 150_000 + "x" + "\n" * 150_000, id="line-breaks"),
        pytest.param("a " * 150_000, id="words"),
    ],
)
def test_counted_characters_grow_linearly_with_the_document(text):
    counted = 0

    def count_tokens(piece: str) -> int:
        nonlocal counted
        counted += len(piece)
        return len(piece) // 4

    chunks = split_into_chunks(text, max_tokens=128, count_tokens=count_tokens)
    assert chunks[-1].end_char == len(text)
    # Whole, pieces and joined chunks at each of 13 separators, then about 10 levels of halves,
    # each counted as a piece and again as a span to split.
    assert counted <= (3 * len(SEPARATORS) + 2 * 10) * len(text)
