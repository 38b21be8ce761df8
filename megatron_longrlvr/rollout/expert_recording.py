"""Takes down which experts the learner's own model sends tokens to while it decodes.

Shapes: L tokens of a pass, M layers, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.routing import TokenRouting
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.rollout.expert_choices import Choices


def recorded_choices(
    policy: Policy, routing: TokenRouting, *, num_tokens: int, lengths: Sequence[int]
) -> list[Choices]:
    """What a pass has recorded, in runs of tokens; every rank of the replica calls this.

    Args:
        policy: That was run.
        routing: Which the pass was given.
        num_tokens: L, padding included.
        lengths: Of the runs, from the first token on; padding behind them is left.

    Returns:
        [tokens, M, K] for each run, of the narrowest type that holds an expert's number.
    """
    spec, groups, layout = policy.spec, policy.groups, policy.groups.layout
    assert spec.experts is not None, "only a mixture has experts to record"
    assert routing.recorded is not None, "the pass was told to record"
    shape = (spec.num_layers, num_tokens, spec.experts.num_per_token)
    found = torch.zeros(shape, dtype=torch.int32, device=device())
    share = num_tokens // (layout.tp if layout.sequence_parallel else 1)
    first = groups.tp_rank * share if layout.sequence_parallel else 0
    for layer, experts in routing.recorded.items():
        found[layer, first : first + share] = experts.int()
    # Ranks of a replica run the same passes, and each knows its own tokens in its own layers.
    if layout.sequence_parallel:
        dist.all_reduce(found, group=groups.tp)
    if layout.pp > 1:
        dist.all_reduce(found, group=groups.pp)
    whole: Choices = found.transpose(0, 1).cpu().numpy().astype(np.uint16)
    if spec.experts.num_experts <= 2**8:
        whole = whole.astype(np.uint8)
    ends = np.cumsum(lengths)
    return [whole[end - length : end] for length, end in zip(lengths, ends, strict=True)]
