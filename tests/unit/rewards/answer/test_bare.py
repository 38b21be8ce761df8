"""Bare answers: tags of the response format go, all other markup stays, in linear time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.rewards.answer.bare import bare

TAGS = [
    *("<answer>", "</ANSWER>", "< answer >", "<CHUNK_12>", "</chunk 3>", "<|im_end|>", "</think>"),
    *(
        "</s>",
        "<end_of_turn>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[CHUNK_3]",
        "(see chunk 3)",
    ),
    "[Chunks 3, CHUNK_7 and 12]",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("<answer> Paris", "Paris", id="unclosed"),
        pytest.param("Paris <CHUNK_3>", "Paris", id="citation"),
        pytest.param("Paris<|im_end|>", "Paris", id="special-token"),
        pytest.param("a<answer>b", "a b", id="words-stay-apart"),
        pytest.param("<div>", "<div>", id="other-markup"),
        pytest.param("x <y and z> w", "x <y and z> w", id="inequality"),
        pytest.param("<CHUNK_>", "<CHUNK_>", id="no-number"),
        pytest.param("Paris [CHUNK_3]<CHUNK_4>.", "Paris   .", id="citation-in-brackets"),
        pytest.param("[chunk]", "[chunk]", id="brackets-without-a-number"),
        pytest.param("(a chunk 3 km wide)", "(a chunk 3 km wide)", id="word-in-brackets"),
    ],
)
def test_tags_of_the_format_become_spaces(text, expected):
    assert bare(text) == expected


@given(st.text(alphabet="<>/|[(,)]answer CHUNK_12", max_size=30), st.sampled_from(TAGS))
def test_tag_next_to_a_text_changes_nothing(text, tag):
    assert bare(f"{tag}{text}") == bare(f"{text}{tag}") == bare(text)
