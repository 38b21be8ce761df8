"""Answers are looked for as whole words in order, and only where finding them says something."""

import pytest

from megatron_longrlvr.data.audit.answers import (
    check_in_question,
    check_outside_evidence,
    telling_answers,
)
from megatron_longrlvr.data.audit.words import join_words, split_words


@pytest.mark.parametrize(
    ("answer", "is_telling"),
    [("Paris", True), ("yes", False), ("B", False), ("7", False), ("1984", True), ("\u5317", True)],
)
def test_answers_that_any_text_may_hold_are_passed_over(answer, is_telling):
    assert bool(telling_answers([split_words(answer)])) == is_telling


def outside(answer, chunks, evidence):
    joined = [join_words(split_words(chunk)) for chunk in chunks]
    return [m for _, m in check_outside_evidence([split_words(answer)], joined, evidence)]


def test_an_answer_in_other_chunks_is_counted_with_the_evidence():
    chunks = ["It was Paris.", "PARIS, then", "comparison", "in Paris"]
    assert outside("Paris", chunks, frozenset({0})) == [
        "in 2 of 3 other chunks (chunks 1, 3), and in 1 of 1 evidence chunks"
    ]


@pytest.mark.parametrize("chunk", ["parisian", "New\u00a0Yorker", "York New", "new. old York"])
def test_parts_of_words_and_other_orders_do_not_count(chunk):
    assert outside("New York", ["New York", chunk], frozenset({0})) == []
    assert outside("Paris", ["Paris", chunk], frozenset({0})) == []


def test_ideographs_are_found_inside_a_sentence():
    chunks = ["x", "\u6211\u5728\u5317\u4eac\u3002"]
    assert len(outside("\u5317\u4eac", chunks, frozenset({0}))) == 1


@pytest.mark.parametrize(
    ("answer", "is_found"),
    [
        pytest.param("the red house by the sea", True, id="all-four-trigrams"),
        pytest.param("the red house by the lake", False, id="three-of-four"),
        pytest.param("red house", True, id="one-bigram"),
        pytest.param("red sea", False, id="words-apart"),
    ],
)
def test_most_ngrams_of_the_answer_in_the_question_are_found(answer, is_found):
    question = split_words("Who built the red house by the sea?")
    assert bool(list(check_in_question([split_words(answer)], question))) == is_found
