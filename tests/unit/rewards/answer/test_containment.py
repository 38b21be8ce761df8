"""Soft containment: whole words, either way, and never the ruling right for containment alone."""

import pytest

from megatron_longrlvr.rewards.answer import containment
from megatron_longrlvr.rewards.answer.verification import Ruling


@pytest.mark.parametrize(
    ("answer", "reference", "score", "ruling"),
    [
        pytest.param("Paris", "paris", 1.0, Ruling.RIGHT, id="same"),
        pytest.param("in Paris, France", "Paris", 1.0, Ruling.UNDECIDED, id="says-more"),
        pytest.param("Washington", "George Washington", 1.0, Ruling.UNDECIDED, id="says-less"),
        pytest.param("party", "art", 0.0, Ruling.UNDECIDED, id="inside-a-word"),
        pytest.param("of", "King of France", 0.0, Ruling.UNDECIDED, id="function-word"),
        pytest.param("1", "1 January", 0.0, Ruling.UNDECIDED, id="single-digit"),
        pytest.param("there is no doubt: yes", "no", 0.0, Ruling.UNDECIDED, id="no-inside"),
        pytest.param("No, he was not", "no", 1.0, Ruling.UNDECIDED, id="no-in-front"),
        pytest.param("Rome", "Paris", 0.0, Ruling.UNDECIDED, id="other"),
        pytest.param("", "Paris", 0.0, Ruling.WRONG, id="empty"),
        pytest.param("Paris", "?", 0.0, Ruling.UNDECIDED, id="reference-without-words"),
    ],
)
def test_score_and_ruling(answer, reference, score, ruling):
    verification = containment.verify(answer, reference)
    assert verification.score == score
    assert verification.ruling is ruling
