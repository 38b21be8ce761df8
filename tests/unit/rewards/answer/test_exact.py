"""Exact answers: white space around the answer is all that is forgiven."""

import pytest

from megatron_longrlvr.rewards.answer import exact


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        pytest.param("Paris", "Paris", 1.0, id="same"),
        pytest.param("\n Paris \n", "Paris", 1.0, id="surrounding-space"),
        pytest.param("paris", "Paris", 0.0, id="case"),
        pytest.param("Paris.", "Paris", 0.0, id="full-stop"),
        pytest.param("red  blue", "red blue", 0.0, id="inner-space"),
        pytest.param(" ", "", 0.0, id="empty-earns-nothing"),
    ],
)
def test_exact_forgives_surrounding_space_alone(answer, reference, expected):
    assert exact.verify(answer, reference).score == expected
