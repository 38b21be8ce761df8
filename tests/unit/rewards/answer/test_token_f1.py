"""Token F1: twice the common words over the words of both texts."""

import pytest

from megatron_longrlvr.rewards.answer import token_f1
from megatron_longrlvr.rewards.answer.verification import Ruling


@pytest.mark.parametrize(
    ("answer", "reference", "score", "ruling"),
    [
        pytest.param("George Washington", "george washington!", 1.0, Ruling.RIGHT, id="same"),
        # 1 common word of 1 + 2
        pytest.param("Washington", "George Washington", 2 / 3, Ruling.UNDECIDED, id="part"),
        # "red" is common once although it is written twice: 2 * 1 / (2 + 2)
        pytest.param("red red", "red blue", 0.5, Ruling.UNDECIDED, id="repeat-counts-once"),
        pytest.param("Rome", "Paris", 0.0, Ruling.UNDECIDED, id="nothing-in-common"),
        pytest.param("...", "Paris", 0.0, Ruling.WRONG, id="empty"),
    ],
)
def test_score_and_ruling(answer, reference, score, ruling):
    verification = token_f1.verify(answer, reference)
    assert verification.score == pytest.approx(score)
    assert verification.ruling is ruling
