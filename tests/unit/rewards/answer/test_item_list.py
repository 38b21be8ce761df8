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
        pytest.param("red, green, and blue", "red, green & blue", Ruling.RIGHT, id="oxford-comma"),
        pytest.param('["red", "blue"]', "red, blue", Ruling.RIGHT, id="json"),
        pytest.param("1) red 2) blue", "red, blue", Ruling.RIGHT, id="numbering-in-a-line"),
        pytest.param("red / blue", "red | blue", Ruling.RIGHT, id="slashes-and-bars"),
        pytest.param(
            "\u7ea2\u3001\u7eff\uff0c\u84dd",
            "\u84dd\uff1b\u7ea2\uff1b\u7eff",
            Ruling.RIGHT,
            id="chinese",
        ),
        pytest.param("\u2013 red\r\n\u2013 blue", "red, blue", Ruling.RIGHT, id="dashes"),
        pytest.param(r"\boxed{\text{red}, \text{blue}}", "red, blue", Ruling.RIGHT, id="boxed"),
        pytest.param("AC/DC, red", "red, AC/DC", Ruling.RIGHT, id="slash-within-an-item"),
        pytest.param("red, red", "red", Ruling.RIGHT, id="repeat"),
        pytest.param("red", "red, blue", Ruling.UNDECIDED, id="item-missing"),
        pytest.param("red, blue, pink", "red, blue", Ruling.UNDECIDED, id="item-more"),
        pytest.param("red and blue", "red blue", Ruling.UNDECIDED, id="one-item-of-two-words"),
        pytest.param(", ;", "red", Ruling.WRONG, id="empty"),
    ],
)
def test_ruling(answer, reference, ruling):
    assert item_list.verify(answer, reference).ruling is ruling
