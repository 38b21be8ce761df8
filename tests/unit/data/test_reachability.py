"""Reach of chunks: which tokens a cut keeps, and which chunks are whole among them.

With one token a byte, every number is a count of characters.
"""

import pytest

from megatron_longrlvr.data.reachability import (
    ChunkSpan,
    Cut,
    find_chunks,
    kept_tokens,
    measure_reach,
)
from megatron_longrlvr.data.tokenizer import load_tokenizer
from tests.support.byte_tokenizer import save_byte_tokenizer

CHUNKS = ("aaaa", "", "cc")
#       0123456789
TEXT = "[<CHUNK_0>aaaa</CHUNK_0><CHUNK_1></CHUNK_1><CHUNK_2>cc</CHUNK_2>]"
SPANS = [
    ChunkSpan(start=1, text_start=10, text_end=14, end=24),
    ChunkSpan(start=24, text_start=33, text_end=33, end=43),
    ChunkSpan(start=43, text_start=52, text_end=54, end=64),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


@pytest.mark.parametrize(
    ("cut", "limit", "expected"),
    [
        pytest.param(Cut.LEFT, 10, (range(10),), id="fits"),
        pytest.param(Cut.LEFT, 3, (range(7, 10),), id="left"),
        pytest.param(Cut.RIGHT, 3, (range(3),), id="right"),
        pytest.param(Cut.MIDDLE, 3, (range(1), range(8, 10)), id="middle"),
        pytest.param(Cut.MIDDLE, 4, (range(2), range(8, 10)), id="middle-even"),
    ],
)
def test_a_cut_keeps_as_many_tokens_as_the_limit(cut, limit, expected):
    assert kept_tokens(10, limit=limit, cut=cut) == expected


def test_chunks_are_found_where_they_stand():
    assert find_chunks(TEXT, content=TEXT[1:-1], chunks=CHUNKS) == SPANS


def test_a_chunk_that_the_template_changed_is_not_found():
    assert find_chunks(TEXT.replace("cc", "CC"), content=TEXT, chunks=CHUNKS) == [*SPANS[:2], None]


def test_an_example_before_the_document_is_not_taken_for_it():
    text = f"<CHUNK_0>aaaa</CHUNK_0>\n{TEXT}"
    found = find_chunks(text, content=TEXT, chunks=CHUNKS)
    assert found[0].start == 1 + 24


def reaches(tokenizer, kept, *, text=TEXT, spans=SPANS):
    (encoded,) = tokenizer.encode_with_offsets([text])
    return list(measure_reach(encoded, spans, kept=kept, unknown_id=None))


@pytest.mark.parametrize(
    ("first", "num_kept", "has_tags"),
    [
        pytest.param(1, 4, True, id="whole"),
        pytest.param(2, 4, False, id="tag-broken"),
        pytest.param(10, 4, False, id="tag-lost"),
        pytest.param(12, 2, False, id="half-the-text"),
        pytest.param(14, 0, False, id="text-lost"),
    ],
)
def test_a_cut_takes_tag_and_text_character_by_character(tokenizer, first, num_kept, has_tags):
    reach = reaches(tokenizer, [range(first, len(TEXT))])[0]
    assert (reach.num_kept_text_tokens, reach.has_tags) == (num_kept, has_tags)
    assert reach.is_reachable == (first == 1)


def test_a_chunk_with_both_ends_but_no_middle_is_not_reachable(tokenizer):
    reach = reaches(tokenizer, [range(11), range(13, len(TEXT))])[0]
    assert (reach.num_kept_text_tokens, reach.has_tags, reach.is_reachable) == (2, True, False)


def test_blank_and_absent_chunks_are_not_reachable(tokenizer):
    whole = [range(len(TEXT))]
    assert [r.is_reachable for r in reaches(tokenizer, whole)] == [True, False, True]
    absent = reaches(tokenizer, whole, spans=[None])[0]
    assert (absent.is_rendered, absent.is_reachable) == (False, False)


def test_offsets_count_characters_not_bytes(tokenizer):
    (encoded,) = tokenizer.encode_with_offsets(["\u00e9a"])
    # e-acute is two bytes of one character.
    assert encoded.tokens_of(0, 1) == range(2)
    assert encoded.tokens_of(1, 2) == range(2, 3)
    assert len(encoded.tokens_of(1, 1)) == 0
