"""Prompt format: the rendered text, its inverse, and refusal of what would not survive the trip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.data.prompt_format import (
    DEFAULT_INSTRUCTION,
    ParsedPrompt,
    parse_prompt,
    render_prompt,
)
from megatron_longrlvr.data.response_format import ParseOutcome, parse_strict

TWO_CHUNKS = "Document:\n<CHUNK_0>a\n</CHUNK_0>\n<CHUNK_1>b</CHUNK_1>"

# Markup of other chunks, heads and questions inside a text must survive as text.
pieces = st.sampled_from(
    ["<CHUNK_3>", "</CHUNK_9>", "Document:\n", "Question: ", "\n\n", " ", "<", "</CHUNK_", "text"]
)
chunk_texts = st.lists(st.one_of(pieces, st.text(max_size=8)), max_size=6).map("".join)


def test_rendered_prompt_is_the_documented_text():
    text = render_prompt(chunks=["a\n", "b"], question=" Why? ", instruction="Read.")
    assert text == f"Read.\n\n{TWO_CHUNKS}\n\nQuestion: Why?"


# Below ten chunks </CHUNK_9> closes none of them.
@given(
    chunks=st.lists(chunk_texts, min_size=1, max_size=9).filter(lambda c: "".join(c).strip()),
    question=chunk_texts.map(str.strip).filter(bool),
)
def test_prompt_is_read_back(chunks, question):
    text = render_prompt(chunks=chunks, question=question)
    assert parse_prompt(text) == ParsedPrompt(chunks=tuple(chunks), question=question)


def test_default_instruction_shows_a_response_that_the_strict_parser_accepts():
    example = parse_strict(DEFAULT_INSTRUCTION)
    assert example.outcome is ParseOutcome.OK
    assert example.cited_chunk_ids == (3, 7)


def test_prompt_without_head_is_read():
    text = TWO_CHUNKS.removeprefix("Document:\n") + "\n\nQuestion: Why?"
    assert parse_prompt(text) == ParsedPrompt(chunks=("a\n", "b"), question="Why?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("Question: Why?", "no chunk tags", id="no-document"),
        pytest.param(
            "Cite like <CHUNK_0>.\n\nDocument:\nplain\n\nQuestion: Why?", "no chunk tags",
            id="tags-in-the-instruction-only",
        ),
        pytest.param(
            "Document:\n<CHUNK_1>a</CHUNK_1>\n\nQuestion: Why?",
            "expected <CHUNK_0>, found <CHUNK_1>",
            id="starts-at-one",
        ),
        pytest.param(
            "Document:\n<CHUNK_0>a</CHUNK_0>\n<CHUNK_2>b</CHUNK_2>\n\nQuestion: Why?",
            "expected <CHUNK_1>, found <CHUNK_2>",
            id="gap",
        ),
        pytest.param(
            "Document:\n<CHUNK_0>a</CHUNK_0>\n<CHUNK_0>b</CHUNK_0>\n\nQuestion: Why?",
            "expected <CHUNK_1>, found <CHUNK_0>",
            id="repeated",
        ),
        pytest.param(
            "Document:\n<CHUNK_00>a</CHUNK_00>\n\nQuestion: Why?",
            "expected <CHUNK_0>, found <CHUNK_00>",
            id="leading-zero",
        ),
        pytest.param(
            "Document:\n<CHUNK_0>a</CHUNK_0>\n<CHUNK_1>b\n\nQuestion: Why?",
            "chunk 1 is never closed",
            id="unclosed",
        ),
        pytest.param(TWO_CHUNKS, "no question", id="no-question"),
        pytest.param(TWO_CHUNKS + "\n\nQuestion: \n", "no question", id="blank-question"),
    ],
)  # fmt: skip
def test_text_that_is_no_prompt_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_prompt(text)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param({"chunks": [], "question": "Why?"}, "empty document", id="no-chunks"),
        pytest.param({"chunks": [" ", "\n"], "question": "Why?"}, "empty document", id="blank"),
        pytest.param({"chunks": ["a"], "question": " "}, "empty question", id="no-question"),
        pytest.param(
            {"chunks": ["a</CHUNK_0>"], "question": "Why?"},
            "would not be read back",
            id="chunk-closes-itself",
        ),
        pytest.param(
            {"chunks": ["a"], "question": "Why?", "instruction": "Document:\n<CHUNK_0> ..."},
            "would not be read back",
            id="instruction-starts-a-document",
        ),
    ],
)
def test_parts_that_make_no_prompt_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        render_prompt(**parts)
