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
        pytest.param(r"The final answer is $\boxed{\text{B}}$.", "B", id="boxed-in-a-sentence"),
        pytest.param(r"Not \boxed{x} but \boxed{B. Paris}", "B", id="box-with-its-text"),
        pytest.param("__B__", "B", id="emphasis"),
        pytest.param("### B", "B", id="heading"),
        pytest.param("\u201cB\u201d", "B", id="quotes"),
        pytest.param("\u3010\uff22\u3011", "B", id="full-width"),
        pytest.param('{"answer": "B"}', "B", id="json"),
        pytest.param("<b>B</b>", "B", id="html"),
        pytest.param("\u200bB\u00a0", "B", id="invisible-characters"),
        pytest.param("option b", "B", id="option-lower-case"),
        pytest.param("The answer is b.", "B", id="marker-lower-case"),
        pytest.param("b) Paris", "B", id="bracket-lower-case"),
        pytest.param("\u7b54\u6848\u662fB\u3002", "B", id="chinese"),
        pytest.param("Respuesta: B", "B", id="spanish"),
        pytest.param("Answer \u2192 B", "B", id="arrow"),
        pytest.param("Therefore, B is correct.", "B", id="is-correct"),
        pytest.param("(B) is right because (A) is false", "B", id="is-right"),
        pytest.param("B, because it rains", "B", id="reason"),
        pytest.param("B - Paris", "B", id="dash"),
        pytest.param("B.Paris", "B", id="no-space"),
        pytest.param("B (Paris)", "B", id="text-in-brackets"),
        pytest.param("B [CHUNK_3]", "B", id="citation-behind"),
        pytest.param("B\n\nA is not in the text.", "B", id="line-of-its-own-first"),
        pytest.param("The answer is A because it rains", "A", id="reason-behind-marker"),
        pytest.param("The answer is B and A is wrong", "B", id="other-is-wrong"),
        pytest.param("(D) Both (A) and (B)", "D", id="option-about-options"),
        pytest.param("The answer is B or C", None, id="joined"),
        pytest.param("Answer: A, D", None, id="joined-by-comma"),
        pytest.param("Vitamin C is correct", None, id="name-is-correct"),
        pytest.param("Both B and C are correct", None, id="two-correct"),
        pytest.param("B-", None, id="grade"),
        pytest.param("\u00b0C", None, id="unit"),
        pytest.param("J.R.R. Tolkien", None, id="initials"),
        pytest.param("I, Claudius", None, id="pronoun"),
        pytest.param("A (small) man", None, id="article-before-bracket"),
        pytest.param("a) red b) blue", None, id="list"),
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
