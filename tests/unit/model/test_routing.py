"""What routers are told about the tokens of a row, worked out by hand."""

from dataclasses import replace

import torch

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.model.routing import route_micro_batch, samples_per_token
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.stages import Segment

# A prompt of 2 tokens with responses of 1 and 2, then a sample of 3 tokens by itself.
SEGMENTS = [
    Segment(num_tokens=2),
    Segment(num_tokens=1, continues=0),
    Segment(num_tokens=2, continues=0),
    Segment(num_tokens=3),
]


def row():
    experts = torch.arange(8, dtype=torch.int16).reshape(1, 8, 1).repeat(2, 1, 1)
    made = unlearned_row(list(range(8)), num_given=2, segments=SEGMENTS)
    return replace(made, experts=experts)


def test_a_shared_prompt_counts_once_for_each_of_its_samples():
    assert samples_per_token(SEGMENTS).tolist() == [2, 2, 1, 1, 1, 1, 1, 1]


def test_padding_counts_nothing_and_is_sent_nowhere():
    layout = ParallelLayout(world_size=1)
    token_index = torch.tensor([0, 5, -1])
    found = route_micro_batch(row(), token_index, layout=layout, tp_rank=0, is_replayed=True)
    assert found.weights.tolist() == [2, 1, 0]
    assert found.replayed.flatten(1).tolist() == [[0, 5, -1]] * 2
    free = route_micro_batch(row(), token_index, layout=layout, tp_rank=0, is_replayed=False)
    assert free.replayed is None


def test_under_sequence_parallelism_a_rank_is_told_of_its_part():
    layout = ParallelLayout(world_size=2, tp=2, sequence_parallel=True)
    token_index = torch.tensor([0, 3, 5, -1])
    for rank, expected in enumerate([[0, 3], [5, -1]]):
        found = route_micro_batch(row(), token_index, layout=layout, tp_rank=rank, is_replayed=True)
        assert found.replayed[0, :, 0].tolist() == expected
