"""A stretch of a flattened tensor, cut into boxes of the tensor: each element once, in order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.checkpoint.own_pieces import Box, boxes

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(SHAPES, st.data())
def test_boxes_hold_the_stretch_and_nothing_else_in_order(shape, data):
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    start = data.draw(st.integers(0, whole.numel()))
    stop = data.draw(st.integers(start, whole.numel()))
    held = []
    for box in boxes(shape, start, stop):
        part = whole[
            tuple(slice(at, at + size) for at, size in zip(box.offset, box.shape, strict=True))
        ]
        assert part.shape == box.shape
        held += part.flatten().tolist()
    assert held == list(range(start, stop))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        pytest.param(0, 12, [Box((0, 0), (3, 4))], id="all"),
        pytest.param(
            2,
            9,
            [Box((0, 2), (1, 2)), Box((1, 0), (1, 4)), Box((2, 0), (1, 1))],
            id="both-ends-within-rows",
        ),
        pytest.param(5, 7, [Box((1, 1), (1, 2))], id="within-a-row"),
        pytest.param(2, 5, [Box((0, 2), (1, 2)), Box((1, 0), (1, 1))], id="no-whole-row"),
        pytest.param(4, 4, [], id="nothing"),
    ],
)
def test_a_matrix_is_cut_into_three_boxes_at_most(start, stop, expected):
    assert list(boxes((3, 4), start, stop)) == expected
