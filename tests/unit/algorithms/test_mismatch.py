"""The gap between engine and learner is measured per token and corrected for as configured.

Promise: sums, deciles and prompt lengths are those worked out by hand, in packed rows with and
without a shared prompt; sums over micro-batches add up; a weight never exceeds its bound; a sample
that is left out moves no other.
"""

import math

import pytest
import torch

from megatron_longrlvr.algorithms.mismatch import (
    GapSums,
    correct_for_mismatch,
    measure_gap,
    samples_of,
)
from megatron_longrlvr.config.mismatch import MismatchConfig
from megatron_longrlvr.stages import MicroBatch, PackedBatch, Segment, TrainBatch

FLOAT32_RTOL = 1e-6  # log-probabilities are float32


def micro_batch(segments, is_response, behavior):
    size = len(is_response)
    flags = torch.tensor(is_response, dtype=torch.bool)
    return MicroBatch(
        token_ids=torch.arange(size),
        segments=segments,
        is_response=flags,
        rewards=0.0 * flags,
        advantages=2.0 * flags,
        behavior_logprobs=torch.tensor(behavior) * flags,
        loss_weights=0.25 * flags,
        sample_ids=("a/0", "a/1"),
    )


def shared():
    """A prompt of 3 tokens, then responses of 2 and 1 tokens to it."""
    segments = [
        Segment(num_tokens=3),
        Segment(num_tokens=2, continues=0),
        Segment(num_tokens=1, continues=0),
    ]
    return micro_batch(segments, [0, 0, 0, 1, 1, 1], [-9.0] * 3 + [-1.0, -2.0, -3.0])


def train_batch(row, gaps):
    proximal = row.behavior_logprobs + torch.tensor(gaps) * row.is_response
    packed = PackedBatch(
        step=1,
        micro_batches=[row],
        num_global_response_tokens=int(row.is_response.sum()),
        num_global_samples=2,
        num_global_tokens=len(row.token_ids),
        num_repeated_prompt_tokens=0,
        load_imbalance=1.0,
    )
    return TrainBatch(packed=packed, proximal_logprobs=[proximal], reference_logprobs=None)


GAPS = [7.0, 7.0, 7.0, 0.5, -0.05, 2.0]  # the prompt's do not count


def test_metrics_by_hand():
    metrics = measure_gap(train_batch(shared(), GAPS)).metrics()
    divergence = sum(math.exp(gap) - 1 - gap for gap in GAPS[3:])
    expected = {
        "mismatch/gap_mean": 2.45 / 3,
        "mismatch/gap_abs_mean": 2.55 / 3,
        "mismatch/gap_max": 2.0,
        "mismatch/kl": divergence / 3,
        "mismatch/above_0.01_frac": 1.0,
        "mismatch/above_0.1_frac": 2 / 3,
        "mismatch/above_1_frac": 1 / 3,
        # Tokens 0 of 2 and 0 of 1 are in the first tenth, token 1 of 2 is in the sixth.
        "mismatch/decile_0_abs_mean": 1.25,
        "mismatch/decile_5_abs_mean": 0.05,
        "mismatch/prompt_from_0_abs_mean": 2.55 / 3,
    }
    assert metrics == pytest.approx(expected, rel=FLOAT32_RTOL)


def test_prompt_lengths_are_those_of_the_whole_sample():
    separate = micro_batch(
        [Segment(num_tokens=4), Segment(num_tokens=2)], [0, 0, 0, 1, 0, 1], [-1.0] * 6
    )
    for row, expected in ((shared(), [3, 3]), (separate, [3, 1])):
        assert [prompt for _, prompt in samples_of(row)] == expected


def test_long_prompts_are_told_apart():
    size = 1500
    row = micro_batch([Segment(num_tokens=size)], [0] * (size - 1) + [1], [-1.0] * size)
    metrics = measure_gap(train_batch(row, [0.25] * size)).metrics()
    assert metrics["mismatch/prompt_from_1024_abs_mean"] == pytest.approx(0.25)
    assert "mismatch/prompt_from_0_abs_mean" not in metrics


def test_sums_of_two_batches_add_up():
    first = measure_gap(train_batch(shared(), GAPS))
    both = first + measure_gap(train_batch(shared(), [0.0] * 6))
    assert both.abs_mean == pytest.approx(2.55 / 6, rel=FLOAT32_RTOL)
    assert both.largest == 2.0
    assert (first + GapSums.zero()).metrics() == first.metrics()


def test_nothing_sampled_has_no_metrics():
    assert GapSums.zero().metrics() == {}


def test_without_corrections_the_batch_is_the_same():
    batch = train_batch(shared(), GAPS)
    assert correct_for_mismatch(batch, MismatchConfig()) is batch


def test_advantages_are_weighted_up_to_the_bound():
    config = MismatchConfig(importance="truncated", truncate_at=2.0)
    (row,) = correct_for_mismatch(train_batch(shared(), GAPS), config).packed.micro_batches
    # exp(0.5) and exp(-0.05) stay, exp(2) is cut; advantages were 2.
    expected = [0, 0, 0, 2 * math.exp(0.5), 2 * math.exp(-0.05), 4.0]
    assert row.advantages.tolist() == pytest.approx(expected, rel=FLOAT32_RTOL)
    assert row.loss_weights.tolist() == shared().loss_weights.tolist()


def test_far_sample_leaves_the_loss_and_its_sibling_stays():
    config = MismatchConfig(mask_sample_above=1.0)
    batch = correct_for_mismatch(train_batch(shared(), GAPS), config)
    (row,) = batch.packed.micro_batches
    assert row.loss_weights.tolist() == [0, 0, 0, 0.25, 0.25, 0]
    assert row.advantages.tolist() == shared().advantages.tolist()
    assert batch.packed.num_global_response_tokens == 3
