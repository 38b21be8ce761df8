"""A plan gives every rank every byte of every tensor, once, from a rank that holds it.

Small cases are worked out by hand; over layouts the invariants are that the ranges of a tensor
cover it without overlap at every target, and that bytes add up to the model's size.
"""

import itertools
import math

import pytest

from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.refit.plan import (
    Copy,
    SourceTensor,
    bytes_by_link,
    expected_seconds,
    format_plan,
    plan_copies,
)

LAYOUTS = [
    {},
    {"tp": 2},
    {"pp": 2},
    {"tp": 2, "pp": 2},
    {"cp": 2, "pp": 2},
    {"tp": 2, "ep": 2},
]


def tensors(layout):
    """Embedding of 9 rows (padded where they do not divide), a norm, an output and an expert."""
    rows = -(-9 // layout.tp)
    return [
        SourceTensor(
            hf_name="embed", shape=(9, 4), split_dim=0, part_size=rows, stage=0, expert_rank=None
        ),
        SourceTensor(
            hf_name="norm", shape=(4,), split_dim=None, part_size=0, stage=0, expert_rank=None
        ),
        SourceTensor(
            hf_name="down",
            shape=(4, 8),
            split_dim=1,
            part_size=8 // layout.tp,
            stage=layout.pp - 1,
            expert_rank=None,
        ),
        SourceTensor(
            hf_name="expert",
            shape=(6, 4),
            split_dim=0,
            part_size=6 // layout.tp,
            stage=layout.pp - 1,
            expert_rank=layout.ep - 1,
        ),
    ]


@pytest.mark.parametrize("degrees", LAYOUTS)
def test_every_rank_gets_every_byte_once(degrees):
    layout = ParallelLayout(world_size=8, **degrees)
    copies = plan_copies(tensors(layout), layout, element_bytes=2)
    for target in range(8):
        for tensor in tensors(layout):
            own = [
                copy
                for copy in copies
                if (copy.target_rank, copy.hf_name) == (target, tensor.hf_name)
            ]
            starts = [copy.start for copy in own]
            stops = [copy.stop for copy in own]
            size = tensor.shape[own[0].dim or 0]
            assert [0, *stops] == [*starts, size]
            assert sum(copy.num_bytes for copy in own) == 2 * math.prod(tensor.shape)


def holds(layout, rank, tensor, part):
    """Whether a rank of the trainer holds a part, the one of this number along the split dim."""
    place = layout.coordinates(rank)
    has_part = part in (None, place.tp) or layout.tp == 1
    return has_part and place.pp == tensor.stage and tensor.expert_rank in (None, place.ep)


@pytest.mark.parametrize("degrees", LAYOUTS)
def test_sources_hold_what_they_send_or_were_sent_it_themselves(degrees):
    layout = ParallelLayout(world_size=8, **degrees)
    by_name = {tensor.hf_name: tensor for tensor in tensors(layout)}
    senders = {
        (copy.target_rank, copy.hf_name, copy.start): copy.source_rank
        for copy in plan_copies(list(by_name.values()), layout, element_bytes=2)
    }
    for (target, name, start), source in senders.items():
        tensor, legs = by_name[name], [target]
        while legs[-1] != source:
            legs.append(source)
            source = senders[source, name, start]
        size = tensor.part_size
        assert holds(layout, source, tensor, start // size if size else None)
        axes = [
            (before.tp != after.tp, before.pp != after.pp, before.ep != after.ep)
            for before, after in itertools.pairwise(map(layout.coordinates, legs))
        ]
        assert all(sum(changed) == 1 for changed in axes)


def test_another_stage_sends_each_tensor_parallel_rank_its_own_part_alone():
    layout = ParallelLayout(world_size=4, tp=2, pp=2)
    copies = plan_copies(tensors(layout), layout, element_bytes=1)
    between = {
        (copy.source_rank, copy.target_rank, copy.hf_name)
        for copy in copies
        if layout.coordinates(copy.source_rank).pp != layout.coordinates(copy.target_rank).pp
    }
    # Ranks 0 and 1 have the embedding and the norm, 2 and 3 the output and the expert.
    assert between == {
        (source, target, name)
        for low, high in ((0, 2), (1, 3))
        for source, target, names in (
            (low, high, ("embed", "norm")),
            (high, low, ("down", "expert")),
        )
        for name in names
    }


def test_data_parallel_replicas_copy_within_themselves():
    layout = ParallelLayout(world_size=4)
    links = bytes_by_link(plan_copies(tensors(layout), layout, element_bytes=4))
    # 9 * 4 + 4 + 4 * 8 + 6 * 4 = 96 numbers of 4 bytes.
    assert links == {(rank, rank): 384 for rank in range(4)}


def test_two_tensor_parallel_ranks_exchange_halves_by_hand():
    layout = ParallelLayout(world_size=2, tp=2)
    links = bytes_by_link(plan_copies(tensors(layout), layout, element_bytes=1))
    # Rank 0: 5 of 9 rows of 4, half of 4 * 8, half of 6 * 4; every rank has the norm itself.
    assert links == {
        (0, 0): 20 + 4 + 16 + 12,
        (1, 0): 16 + 16 + 12,
        (0, 1): 20 + 16 + 12,
        (1, 1): 16 + 4 + 16 + 12,
    }


def test_expected_time_is_that_of_the_busiest_rank():
    def copy(source, target, num_bytes):
        return Copy(
            source_rank=source,
            target_rank=target,
            hf_name="x",
            dim=None,
            start=0,
            stop=1,
            num_bytes=num_bytes,
        )

    copies = [copy(0, 0, 4 * 10**9), copy(1, 0, 10**9), copy(1, 1, 10**9)]
    # Rank 0: 4 GB at 8 GB/s and 1 GB at 2 GB/s.
    assert expected_seconds(copies, link_gb_per_s=2.0, copy_gb_per_s=8.0) == pytest.approx(1.0)


def test_plan_prints_a_line_per_copy_and_per_link():
    layout = ParallelLayout(world_size=2, tp=2)
    copies = plan_copies(tensors(layout), layout, element_bytes=1)
    lines = format_plan(copies).splitlines()
    assert lines[0] == "rank 0 -> rank 0  embed[0:5]  20 bytes"
    assert lines[3] == "rank 0 -> rank 0  down[:, 0:4]  16 bytes"
    assert lines[-1] == "total rank 1 -> rank 1: 0.000000 GB"
    assert len(lines) == len(copies) + 4
