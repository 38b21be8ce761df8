"""Small records for the tests of this folder."""

from dataclasses import replace

from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.stages import (
    AdvantageBatch,
    FinishReason,
    PolicyVersion,
    Prompt,
    Sample,
    ScoredSample,
)


def prompt(prompt_id, *, num_tokens=3):
    return Prompt(
        prompt_id=prompt_id,
        text="",
        token_ids=list(range(num_tokens)),
        question="",
        chunks=["a", "b"],
        evidence_chunk_ids=frozenset({0}),
        reference_answers=["x"],
    )


def scored_sample(of, index, *, num_tokens=2, reward=0.0, is_valid=True):
    """Token ids and log-probabilities that tell samples and positions apart."""
    sample = Sample(
        prompt=of,
        sample_index=index,
        token_ids=[100 * index + position for position in range(num_tokens)],
        text="",
        behavior_logprobs=[-0.1 * (position + 1) - 0.01 * index for position in range(num_tokens)],
        finish_reason=FinishReason.STOP,
        policy_version=PolicyVersion(0),
    )
    return replace(ScoredSample.without_reward(sample), reward=reward, is_valid=is_valid)


def algorithm(**settings):
    return AlgorithmConfig(**{"micro_batch_tokens": 16, **settings})


def advantage_batch(scored, advantages, *, step=0):
    """Every token of a sample has the advantage given for it."""
    return AdvantageBatch(
        step=step,
        scored=scored,
        advantages=[
            [value] * len(each.sample.token_ids)
            for each, value in zip(scored, advantages, strict=True)
        ],
        num_groups=len({each.sample.prompt.prompt_id for each in scored}),
        num_dropped_groups=0,
    )
