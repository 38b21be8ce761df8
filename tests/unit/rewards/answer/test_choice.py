"""Choice letters: read at an option's own boundaries, never out of a word, a tag or a sentence."""

import pytest

from megatron_longrlvr.rewards.answer import choice
from megatron_longrlvr.rewards.answer.verification import Ruling


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        pytest.param("B", "B", id="alone"),
        pytest.param("b.", "B", id="alone-lower-case"),
        pytest.param("**(B)**", "B", id="markdown"),
        pytest.param(r"\boxed{B}", "B", id="boxed"),
        pytest.param("<answer>B</answer>", "B", id="in-a-tag"),
        pytest.param("B. Paris, not C", "B", id="with-its-text"),
        pytest.param("(B) A man", "B", id="bracketed-with-its-text"),
        pytest.param("Answer: B) Paris", "B", id="label"),
        pytest.param("Final answer: (C)", "C", id="final-label"),
        pytest.param("The correct answer is (B) Paris.", "B", id="marker"),
        pytest.param("After all, I choose option D because of (1)", "D", id="option"),
        pytest.param("The answer is not (A) but (B).", "B", id="negated-other"),
        pytest.param("It must be (C), since <CHUNK_3> says so", "C", id="only-bracketed"),
        pytest.param("The best summary is D. Water, and it rains", "D", id="behind-is"),
        pytest.param("So:\nC. Rome", "C", id="on-its-own-line"),
        pytest.param("B. the home of J. Smith", "B", id="initial-behind-the-option"),
        pytest.param("The correct answer is <C>.", "C", id="angle-brackets"),
        pytest.param("Both A. Rome and D. Oslo are", None, id="two-options-with-text"),
        pytest.param("A. Rome\nB. Oslo", None, id="list-of-options"),
        pytest.param("John D. Rockefeller", None, id="initial"),
        pytest.param("A/B/C", None, id="slashes"),
        pytest.param("<CHUNK_3>", None, id="chunk-tag"),
        pytest.param("Cats and dogs", None, id="inside-a-word"),
        pytest.param("A man walks in", None, id="article"),
        pytest.param("The answer is A man", None, id="article-after-marker"),
        pytest.param("It is vitamin C", None, id="name-in-a-sentence"),
        pytest.param("The answer is not B", None, id="negated"),
        pytest.param("The answer is B or the answer is C", None, id="two-marked"),
        pytest.param("Either (A) or (B)", None, id="two-bracketed"),
        pytest.param("answer: C++", None, id="language"),
        pytest.param("", None, id="empty"),
    ],
)
def test_option_that_a_text_names(text, letter):
    assert choice.read_option(text) == letter


@pytest.mark.parametrize(
    ("answer", "reference", "ruling"),
    [
        pytest.param("B. Paris", "B", Ruling.RIGHT, id="right"),
        pytest.param("C. Rome", "(B) Paris", Ruling.WRONG, id="wrong"),
        pytest.param("Paris", "B", Ruling.UNDECIDED, id="no-letter"),
        pytest.param("B", "Paris", Ruling.UNDECIDED, id="reference-is-no-letter"),
        pytest.param("<CHUNK_2>", "C", Ruling.WRONG, id="nothing-but-a-tag"),
    ],
)
def test_ruling(answer, reference, ruling):
    assert choice.verify(answer, reference).ruling is ruling
