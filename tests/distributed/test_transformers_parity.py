"""Logits of the megatron-core policy equal transformers' own, with every rotary scaling.

One packed micro-batch of samples of unequal lengths against one unpacked forward pass a sample.
"""

from itertools import pairwise

import pytest
import torch
import torch.distributed as dist

from megatron_longrlvr.model.decoding import run_pipeline
from megatron_longrlvr.model.logprobs import shard_logits
from megatron_longrlvr.parallel.groups import close_process_groups
from tests.support.learners import start_policy
from tests.support.micro_batches import random_batch, segment_edges
from tests.support.tiny_models import FAMILIES, VOCAB_SIZE, save_tiny_model, tiny_model

# Logits of these models reach 5; float32 sums over 4 layers in another order move them by 4e-6.
LOGIT_ATOL = 1e-5
BASE = {"rope_theta": 10_000.0}
ROPES = [
    pytest.param({**BASE, "rope_type": "default"}, id="default"),
    pytest.param({**BASE, "rope_type": "linear", "factor": 4.0}, id="linear"),
    pytest.param(
        {
            **BASE,
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        id="llama3",
    ),
    pytest.param(
        {
            **BASE,
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        id="yarn",
    ),
]
LAYOUTS = [
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
]


def packed_logits(rank, world_size, folder, layout):  # noqa: ARG001
    """[T, V] logits at every token of one packed micro-batch; None before the last stage."""
    policy = start_policy(folder, layout, world_size)
    micro_batch = random_batch(seed=4).micro_batches[0]
    (local,) = policy.localize([micro_batch])
    everything = torch.arange(len(micro_batch.token_ids))
    with torch.no_grad():
        hidden = run_pipeline(policy, local.token_ids, local.attention, everything)
        logits = None
        if hidden is not None:
            weight, shard = policy.chunks[-1].output_shard(VOCAB_SIZE)
            own = shard_logits(hidden, weight, shard)
            parts = [torch.empty_like(own) for _ in range(shard.group.size())]
            dist.all_gather(parts, own, group=shard.group)
            logits = torch.cat(parts, dim=1)[:, :VOCAB_SIZE]
    close_process_groups()
    return logits


def expected_logits(family, rope, *, tie=False):
    """The same, one sample at a time."""
    model = tiny_model(family, rope=rope, tie=tie)
    micro_batch = random_batch(seed=4).micro_batches[0]
    edges = segment_edges(micro_batch)
    with torch.no_grad():
        return torch.cat(
            [
                model(micro_batch.token_ids[None, start:end]).logits[0]
                for start, end in pairwise(edges)
            ]
        )


# Every family, and every scaling in one that computes nothing but the common parts.
FAMILIES_AND_ROPES = [
    *[pytest.param(family, BASE | {"rope_type": "default"}, id=family) for family in FAMILIES],
    *[pytest.param("llama", *rope.values, id=f"llama-{rope.id}") for rope in ROPES[1:]],
    pytest.param("qwen3", *ROPES[3].values, id="qwen3-yarn"),
]


@pytest.mark.parametrize(("family", "rope"), FAMILIES_AND_ROPES)
def test_logits_equal_transformers(pool1, tmp_path, family, rope):
    save_tiny_model(tmp_path, family, rope=rope)
    (logits,) = pool1.run(packed_logits, tmp_path, {})
    torch.testing.assert_close(logits, expected_logits(family, rope), atol=LOGIT_ATOL, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_moe"])
def test_logits_on_two_ranks_equal_transformers(pool2, tmp_path, family, layout):
    rope = ROPES[3].values[0]
    save_tiny_model(tmp_path, family, rope=rope, tie=True)
    results = [
        result for result in pool2.run(packed_logits, tmp_path, layout) if result is not None
    ]
    assert results
    for logits in results:
        expected = expected_logits(family, rope, tie=True)
        torch.testing.assert_close(logits, expected, atol=LOGIT_ATOL, rtol=0)
