"""Normalised answers: which differences of form are forgiven, and which of content are not."""

import pytest

from megatron_longrlvr.rewards.answer import normalized


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        pytest.param("PARIS", "Paris", id="case"),
        pytest.param("\uff11\uff12", "12", id="full-width-digits"),
        pytest.param("\ufb01nal", "final", id="ligature"),
        pytest.param("Stra\u00dfe", "STRASSE", id="case-folding"),
        pytest.param("Answer: Paris", "Paris", id="label"),
        pytest.param("answer :Paris", "Paris", id="label-loose"),
        pytest.param("The Eiffel Tower", "Eiffel Tower", id="article"),
        pytest.param("red,   blue\nand green!", "Red blue and green", id="punctuation-and-space"),
        pytest.param("**Paris**", "Paris", id="markdown"),
        pytest.param("`x`", "x", id="backquotes"),
        pytest.param("U.S.", "US", id="abbreviation"),
        pytest.param("don\u2019t", "don't", id="curly-apostrophe"),
        pytest.param("well-known", "well known", id="hyphen"),
        pytest.param("1,234,567", "1234567", id="grouping-commas"),
        pytest.param("42.", "42", id="full-stop-after-number"),
        pytest.param("\ufeffPa\u00adris\u200b", "Paris", id="invisible-characters"),
        pytest.param(r"$\boxed{\text{Paris}}$", "Paris", id="boxed"),
        pytest.param("**Final answer:** Paris", "Paris", id="label-in-bold"),
        pytest.param(
            "\u7b54\u6848\uff1a\u300c\u5df4\u9ece\u300d\u3002", "\u5df4\u9ece", id="chinese"
        ),
        pytest.param("<b>Paris</b>", "Paris", id="html"),
        pytest.param("\uff15\uff10 \uff05", "50%", id="space-before-percent"),
        pytest.param("1\u202f234", "1234", id="grouping-space"),
        pytest.param("\u22123", "-3", id="minus-sign"),
        pytest.param("Cafe\u0301", "caf\u00e9", id="combining-accent"),
        pytest.param("H\u2082O", "H2O", id="subscript"),
        pytest.param("A", "a.", id="article-as-the-whole-answer"),
        pytest.param("The answer is Paris.", "Paris", id="sentence-around"),
        pytest.param("**The correct answer is: Paris**", "Paris", id="sentence-with-a-colon"),
        pytest.param("Respuesta: Paris", "Paris", id="label-in-spanish"),
        pytest.param("## Paris", "Paris", id="heading"),
        pytest.param("O\u02bcBrien", "O'Brien", id="letter-apostrophe"),
        pytest.param("Paris [CHUNK_3]", "Paris", id="citation-in-brackets"),
        pytest.param("Paris</s>", "Paris", id="end-of-turn"),
        pytest.param('{"answer": "Paris"}', "Paris", id="object"),
    ],
)
def test_normalized_forgives_form(answer, reference):
    assert normalized.verify(answer, reference).score == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        pytest.param("3.5", "35", id="decimal-point"),
        pytest.param(".5", "5", id="leading-decimal-point"),
        pytest.param("-3", "3", id="minus"),
        pytest.param("5%", "5", id="percent"),
        pytest.param("C#", "C", id="sharp"),
        pytest.param("x\u00b2", "x2", id="superscript"),
        pytest.param("1\u00bd", "11/2", id="vulgar-fraction"),
        pytest.param("cafe", "caf\u00e9", id="accent"),
        pytest.param("C++", "C", id="plus"),
        pytest.param("$5", "5", id="currency"),
        pytest.param("Paris France", "Paris", id="one-word-more"),
        pytest.param("blue red", "red blue", id="order"),
        pytest.param("A", "B", id="option-letter"),
        pytest.param("The answer is not Paris", "Paris", id="negation-behind-a-label"),
        pytest.param("The answer isolates Paris", "olates Paris", id="label-within-a-word"),
        pytest.param(
            '{"answer": "Paris", "result": "Rome"}', "Paris", id="object-with-two-answers"
        ),
        pytest.param("...", "?!", id="nothing-but-punctuation"),
        pytest.param("", "the", id="empty"),
        pytest.param("my answer: Paris", "Paris", id="label-not-in-front"),
    ],
)
def test_normalized_does_not_forgive_content(answer, reference):
    assert normalized.verify(answer, reference).score == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2-3", "2 3", id="range-is-no-minus"),
        pytest.param("(-3)", "\u22123", id="minus-in-brackets"),
        pytest.param("1,23", "1 23", id="comma-that-groups-nothing"),
        pytest.param("v.5", "v5", id="full-stop-after-letter"),
        pytest.param("Answer: the the", "the the", id="only-articles"),
    ],
)
def test_normal_form(text, expected):
    assert normalized.normalize(text) == expected
