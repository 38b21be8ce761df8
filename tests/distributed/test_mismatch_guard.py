"""The mismatch guard judges the gap over all data-parallel ranks, and every rank alike."""

from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import PolicyMismatch
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.stages import TrainBatch
from megatron_longrlvr.trainer.mismatch_guard import MismatchGuard
from tests.support.micro_batches import random_batch

# Gaps are differences of float32 log-probabilities of up to 5 nats.
GAP_ATOL = 1e-5


def inspect(rank, world_size, mismatch):
    """Gaps of 0.2 on the first rank and of 0 on the others."""
    layout = ParallelLayout(world_size=world_size)
    groups = start_process_groups(layout, seed=0)
    algorithm = AlgorithmConfig(micro_batch_tokens=16, mismatch=mismatch)
    packed = random_batch(seed=1)
    shift = 0.2 if rank == 0 else 0.0
    proximal = [
        row.behavior_logprobs + shift * row.is_response.float() for row in packed.micro_batches
    ]
    batch = TrainBatch(packed=packed, proximal_logprobs=proximal, reference_logprobs=None)
    try:
        _, metrics = MismatchGuard(algorithm=algorithm, groups=groups).inspect([batch])
    except PolicyMismatch as error:
        return str(error)
    return metrics


def test_every_rank_sees_the_mean_over_all_of_them(pool2):
    first, second = pool2.run(inspect, {})
    assert first == second
    assert abs(first["mismatch/gap_abs_mean"] - 0.1) < GAP_ATOL
    assert abs(first["mismatch/gap_max"] - 0.2) < GAP_ATOL


def test_every_rank_stops_where_the_mean_is_above_the_limit(pool2):
    for said in pool2.run(inspect, {"stop_above": 0.09}):
        assert "differ by 0.1 nats per token on average and by 0.2 at most" in said
        assert "algorithm.mismatch.stop_above=0.09" in said
    assert all(isinstance(found, dict) for found in pool2.run(inspect, {"stop_above": 0.11}))
