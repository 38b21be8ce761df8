"""Random packed micro-batches: prompts and responses of unequal lengths."""

from __future__ import annotations

from itertools import accumulate

import torch

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.stages import MicroBatch, PackedBatch, Sample, Segment
from tests.support.tiny_models import VOCAB_SIZE

# (prompt tokens, response tokens) of each sample of each micro-batch; a response of one token
# and a sample of odd length are among them.
SHAPES = (
    ((5, 3), (9, 8), (4, 1)),
    ((12, 6),),
    ((3, 2), (3, 2), (3, 2), (7, 9)),
    ((20, 13), (2, 5)),
)


def random_batch(*, seed: int, share: int = 0, num_shares: int = 1) -> PackedBatch:
    """A batch of ``SHAPES``, or every ``num_shares``-th of its micro-batches from ``share``."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(response for shape in SHAPES for _, response in shape)
    micro_batches = [
        _micro_batch(index, shape, 1.0 / num_tokens, generator)
        for index, shape in enumerate(SHAPES)
    ]
    return PackedBatch(
        step=seed,
        micro_batches=micro_batches[share::num_shares],
        num_global_response_tokens=num_tokens,
        num_global_samples=sum(len(shape) for shape in SHAPES),
        num_global_tokens=sum(sum(sample) for shape in SHAPES for sample in shape),
        num_repeated_prompt_tokens=0,
        load_imbalance=1.0,
    )


def _micro_batch(
    index: int,
    shape: tuple[tuple[int, int], ...],
    weight: float,
    generator: torch.Generator,
) -> MicroBatch:
    lengths = [prompt + response for prompt, response in shape]
    is_response = torch.cat(
        [torch.arange(prompt + response) >= prompt for prompt, response in shape]
    )
    total = sum(lengths)
    advantages = torch.randn(total, generator=generator) * is_response
    rewards = torch.zeros(total)
    rewards[[end - 1 for end in accumulate(lengths)]] = torch.arange(1.0, len(shape) + 1)
    behavior = -torch.rand(total, generator=generator) * 5 * is_response
    return MicroBatch(
        token_ids=torch.randint(0, VOCAB_SIZE, (total,), generator=generator),
        segments=[Segment(num_tokens=length) for length in lengths],
        is_response=is_response,
        rewards=rewards,
        advantages=advantages,
        behavior_logprobs=behavior,
        loss_weights=weight * is_response.float(),
        sample_ids=tuple(f"m{index}/{i}" for i in range(len(shape))),
    )


def segment_edges(micro_batch: MicroBatch) -> list[int]:
    """Where each segment starts, and the end of the last."""
    return [0, *accumulate(segment.num_tokens for segment in micro_batch.segments)]


def as_micro_batch(sample: Sample) -> MicroBatch:
    """A sample by itself, to be scored."""
    return unlearned_row(
        [*sample.prompt.token_ids, *sample.token_ids],
        num_given=len(sample.prompt.token_ids),
        sample_ids=(f"{sample.prompt.prompt_id}/{sample.sample_index}",),
    )
