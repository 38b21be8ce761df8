"""Random groups of samples with advantages, as they come out of a step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from megatron_longrlvr.stages import (
    AdvantageBatch,
    FinishReason,
    PolicyVersion,
    Prompt,
    Sample,
    ScoredSample,
)
from tests.support.tiny_models import VOCAB_SIZE

# (prompt tokens, response tokens of each sample): groups of 8, 1, 2 and 3; unequal responses, some
# of one token; an odd prompt; a prompt of one token.
GROUPS = (
    (21, (5, 1, 9, 3, 1, 7, 2, 4)),
    (13, (6,)),
    (1, (3, 8)),
    (30, (1, 1, 12)),
)


def random_groups(
    *, seed: int, shapes: Sequence[tuple[int, Sequence[int]]] = GROUPS
) -> list[AdvantageBatch]:
    """One batch per group; every token, and an advantage for each, drawn from the seed."""
    draw = random.Random(seed)
    return [_group(draw, f"p{index}", *shape) for index, shape in enumerate(shapes)]


def joined(groups: Sequence[AdvantageBatch]) -> AdvantageBatch:
    """Groups one after the other; none of them gives an empty batch."""
    return AdvantageBatch(
        step=1,
        scored=[scored for group in groups for scored in group.scored],
        advantages=[advantage for group in groups for advantage in group.advantages],
        num_groups=len(groups),
        num_dropped_groups=0,
    )


def _group(
    draw: random.Random, name: str, prompt_tokens: int, response_tokens: Sequence[int]
) -> AdvantageBatch:
    prompt = Prompt(
        prompt_id=name,
        text="",
        token_ids=[draw.randrange(VOCAB_SIZE) for _ in range(prompt_tokens)],
        question="",
        chunks=("a",),
        evidence_chunk_ids=frozenset({0}),
        reference_answers=("x",),
    )
    return AdvantageBatch(
        step=1,
        scored=[
            _scored(draw, prompt, index, length) for index, length in enumerate(response_tokens)
        ],
        advantages=[[draw.gauss(0, 1) for _ in range(length)] for length in response_tokens],
        num_groups=1,
        num_dropped_groups=0,
    )


def _scored(draw: random.Random, prompt: Prompt, index: int, length: int) -> ScoredSample:
    sample = Sample(
        prompt=prompt,
        sample_index=index,
        token_ids=[draw.randrange(VOCAB_SIZE) for _ in range(length)],
        text="",
        behavior_logprobs=[-5 * draw.random() for _ in range(length)],
        finish_reason=FinishReason.STOP,
        policy_version=PolicyVersion(0),
    )
    return ScoredSample.without_reward(sample)
