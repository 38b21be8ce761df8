"""Unordered answers: the words count, as often as they occur, and their order does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.rewards.answer import normalized, unordered


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        pytest.param("blue; Red.", "red, blue", 1.0, id="order"),
        pytest.param("red red blue", "red blue blue", 0.0, id="counts-differ"),
        pytest.param("red", "red red", 0.0, id="repeat-missing"),
        pytest.param("", "", 0.0, id="empty-earns-nothing"),
    ],
)
def test_unordered_compares_word_counts(answer, reference, expected):
    assert unordered.verify(answer, reference).score == expected


@given(answer=st.text(max_size=30), reference=st.text(max_size=30))
def test_whatever_is_equal_in_order_is_equal_without(answer, reference):
    assert normalized.verify(answer, reference).score <= unordered.verify(answer, reference).score


@given(st.lists(st.sampled_from(["red", "blue", "7"]), min_size=1), st.randoms())
def test_shuffled_words_are_the_same_answer(words, random):
    shuffled = random.sample(words, len(words))
    assert unordered.verify(" ".join(shuffled), " ".join(words)).score == 1.0
