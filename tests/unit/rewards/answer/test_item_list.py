"""Lists: the same items in any order and dress; anything else is left undecided."""

import pytest

from megatron_longrlvr.rewards.answer import item_list
from megatron_longrlvr.rewards.answer.verification import Ruling


@pytest.mark.parametrize(
    ("answer", "reference", "ruling"),
    [
        pytest.param("red, green and blue", "blue; red; green", Ruling.RIGHT, id="order"),
        pytest.param("- Red\n- the Blue", "blue, red", Ruling.RIGHT, id="bullets"),
        pytest.param("1. red\n2. blue", "red, blue", Ruling.RIGHT, id="numbering"),
        pytest.param("1,200 and 7", "7; 1200", Ruling.RIGHT, id="grouping-comma"),
        pytest.param("red, red", "red", Ruling.RIGHT, id="repeat"),
        pytest.param("red", "red, blue", Ruling.UNDECIDED, id="item-missing"),
        pytest.param("red, blue, pink", "red, blue", Ruling.UNDECIDED, id="item-more"),
        pytest.param("red and blue", "red blue", Ruling.UNDECIDED, id="one-item-of-two-words"),
        pytest.param(", ;", "red", Ruling.WRONG, id="empty"),
    ],
)
def test_ruling(answer, reference, ruling):
    assert item_list.verify(answer, reference).ruling is ruling
