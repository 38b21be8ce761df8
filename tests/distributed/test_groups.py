"""Every rank's process groups are the ones that the layout's arithmetic says.

The layout (no torch) and megatron-core number ranks independently; here real groups are asked who
is in them. Not covered: NCCL.
"""

import os

import pytest
import torch
import torch.distributed as dist

from megatron_longrlvr.parallel.collectives import (
    all_ranks_agree,
    broadcast_object,
    gather_objects,
    sum_over,
)
from megatron_longrlvr.parallel.groups import (
    close_process_groups,
    launched_world_size,
    start_process_groups,
)
from megatron_longrlvr.parallel.layout import ParallelLayout
from tests.support.spawn import DistributedPool, RankTimeoutError, run_distributed

AXES_BY_GROUP = {
    "tp": ("tp",),
    "cp": ("cp",),
    "dp": ("dp",),
    "pp": ("pp",),
    "dp_cp": ("dp", "cp"),
    "tp_cp": ("tp", "cp"),
    "tp_pp": ("tp", "pp"),
}
AXES_BY_MEGATRON_GROUP = {
    "ep": ("ep",),
    "expt_dp": ("expert_dp",),
    "tp_ep": ("tp", "ep"),
    "tp_ep_pp": ("tp", "ep", "pp"),
}


def members(rank, _world_size, layout):
    groups = start_process_groups(layout, seed=1)
    found = {name: ranks_of(getattr(groups, name)) for name in (*AXES_BY_GROUP, "world")}
    found |= {name: ranks_of(getattr(groups.megatron, name)) for name in AXES_BY_MEGATRON_GROUP}
    places = (groups.tp_rank, groups.cp_rank, groups.dp_rank, groups.pp_rank)
    in_groups = tuple(
        dist.get_group_rank(g, rank) for g in (groups.tp, groups.cp, groups.dp, groups.pp)
    )
    # An all-reduce in every group: a group that exists but cannot communicate would hang here.
    sums = {name: sum_over(getattr(groups, name), (rank,))[0] for name in AXES_BY_GROUP}
    return found, places, in_groups, sums


def ranks_of(group):
    return tuple(dist.get_process_group_ranks(group))


def assert_groups_follow_layout(results, layout):
    for rank, (found, places, in_groups, sums) in enumerate(results):
        expected = {
            name: layout.group_of(rank, *axes)
            for name, axes in (AXES_BY_GROUP | AXES_BY_MEGATRON_GROUP).items()
        }
        assert found == expected | {"world": tuple(range(layout.world_size))}
        assert places == in_groups
        assert sums == {name: sum(expected[name]) for name in AXES_BY_GROUP}


@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({}, id="dp4"),
        pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp-dp2"),
        pytest.param({"tp": 2, "pp": 2, "vpp": 2}, id="tp2-pp2-vpp2"),
        pytest.param({"pp": 2, "cp": 2}, id="pp2-cp2"),
        pytest.param({"cp": 2, "ep": 4}, id="cp2-dp2-ep4"),
    ],
)
def test_groups_of_four_ranks_follow_the_layout(pool4, degrees):
    layout = ParallelLayout(world_size=4, **degrees)
    assert_groups_follow_layout(pool4.run(members, layout), layout)


@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({"tp": 2, "pp": 2, "cp": 2}, id="tp2-pp2-cp2"),
        pytest.param({"tp": 2, "cp": 2, "ep": 2}, id="tp2-cp2-dp2-ep2"),
        pytest.param({"pp": 4, "vpp": 2, "ep": 2}, id="pp4-vpp2-dp2-ep2"),
    ],
)
def test_groups_of_eight_ranks_follow_the_layout(pool8, degrees):
    layout = ParallelLayout(world_size=8, **degrees)
    assert_groups_follow_layout(pool8.run(members, layout), layout)


def exchange(rank, world_size):
    groups = start_process_groups(ParallelLayout(world_size=world_size, tp=2), seed=1)
    return {
        "mixed": sum_over(groups.world, (rank, 0.25 * rank, 2**52 * (rank == 0) + 1)),
        # One rank passes an int where the others pass floats.
        "uneven": sum_over(groups.world, (0 if rank == 0 else 0.5,)),
        "tp": sum_over(groups.tp, (rank,)),
        "all": all_ranks_agree(True, groups.world),
        "all_but_one": all_ranks_agree(rank != 2, groups.world),
        "broadcast": broadcast_object({"from": rank}, groups.world, source=3),
        "broadcast_in_tp": broadcast_object(rank, groups.tp, source=1),
        "gathered": gather_objects(f"rank {rank}", groups.world),
    }


def test_collectives_reach_exactly_the_ranks_of_their_group(pool4):
    for rank, result in enumerate(pool4.run(exchange)):
        first = rank - rank % 2  # tensor-parallel pairs are (0, 1) and (2, 3)
        assert result["mixed"] == (0 + 1 + 2 + 3, 1.5, 2**52 + 4)
        assert result["uneven"] == (1.5,)
        assert result["tp"] == (2 * first + 1,)
        assert result["all"] is True
        assert result["all_but_one"] is False
        assert result["broadcast"] == {"from": 3}
        assert result["broadcast_in_tp"] == first + 1
        assert result["gathered"] == ["rank 0", "rank 1", "rank 2", "rank 3"]


def draw(_rank, world_size):
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    layout = ParallelLayout(world_size=world_size, tp=2)
    start_process_groups(layout, seed=5)
    default = torch.rand(3).tolist()
    with get_cuda_rng_tracker().fork():
        sharded = torch.rand(3).tolist()
        with get_cuda_rng_tracker().fork():  # goes on where the outer one stopped
            sharded += torch.rand(3).tolist()
    after = torch.rand(3).tolist()
    return default, sharded, after


def test_random_numbers_agree_where_weights_do_and_differ_between_tensor_parallel_ranks(pool4):
    defaults, sharded, after = zip(*pool4.run(draw), strict=True)
    assert all(numbers == defaults[0] for numbers in defaults)
    assert all(numbers == after[0] for numbers in after)
    assert sharded[0] == sharded[2]  # same tp rank, other data-parallel rank
    assert sharded[1] == sharded[3]
    assert sharded[0] != sharded[1]
    # A fork neither moves the default generator nor repeats its own numbers when nested.
    torch.manual_seed(5)
    assert defaults[0] + after[0] == torch.rand(3).tolist() + torch.rand(3).tolist()
    torch.manual_seed(5 + 2718)  # megatron-core's offset of the tensor-parallel generator
    assert sharded[0] == torch.rand(3).tolist() + torch.rand(3).tolist()


def start_twice(_rank, world_size):
    layout = ParallelLayout(world_size=world_size)
    start_process_groups(layout, seed=1)
    with pytest.raises(RuntimeError, match=r"close_process_groups\(\) first"):
        start_process_groups(layout, seed=1)


def test_second_start_without_close_is_refused(pool2):
    pool2.run(start_twice)


def start_for_too_many(_rank, world_size):
    with pytest.raises(RuntimeError, match="for 4 ranks and 2 are running"):
        start_process_groups(ParallelLayout(world_size=2 * world_size), seed=1)


def test_layout_for_another_number_of_ranks_is_refused(pool2):
    pool2.run(start_for_too_many)


def count_groups(_rank, world_size):
    layout = ParallelLayout(world_size=world_size, tp=2)
    counts = []
    for _ in range(2):
        start_process_groups(layout, seed=1)
        close_process_groups()
        counts.append(len(dist.distributed_c10d._world.pg_map))
    return counts


def test_closing_leaves_only_the_world_behind(pool2):
    assert pool2.run(count_groups) == [[1, 1], [1, 1]]


def start_like_torchrun(_rank, world_size):
    assert not dist.is_initialized()
    groups = start_process_groups(ParallelLayout(world_size=launched_world_size()), seed=1)
    total = sum_over(groups.dp, (1,))
    close_process_groups()
    return total, dist.is_initialized(), world_size


def test_world_is_started_from_the_launcher_environment_and_ended_again():
    assert run_distributed(start_like_torchrun, 2) == [((2,), False, 2)] * 2


def start_alone(_rank, _world_size):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    groups = start_process_groups(ParallelLayout(world_size=launched_world_size()), seed=1)
    return sum_over(groups.world, (7,)), all_ranks_agree(True, groups.tp)


def test_plain_process_is_a_world_of_one():
    assert run_distributed(start_alone, 1) == [((7,), True)]


def fail_on_rank_one(rank, _world_size):
    if rank == 1:
        raise ValueError("a bad rank")
    dist.barrier()


def test_failing_rank_is_reported_with_its_traceback_while_the_others_wait():
    with (
        DistributedPool(2) as pool,
        pytest.raises(AssertionError, match=r"(?s)rank 1 failed.*in fail_on_rank_one.*a bad rank"),
    ):
        pool.run(fail_on_rank_one)


def wait_for_nobody(rank, _world_size):
    if rank == 0:
        dist.barrier()


def test_hang_ends_in_an_error_that_names_the_waiting_ranks():
    with DistributedPool(2) as pool:
        pool.run(members, ParallelLayout(world_size=2))  # started, so that the limit is the hang's
        with pytest.raises(RankTimeoutError, match=r"ranks \[0\] of 2 gave no result in 1"):
            pool.run(wait_for_nobody, timeout_s=1.0)
        # The pool is usable afterwards, in a new world.
        assert len(pool.run(members, ParallelLayout(world_size=2))) == 2
