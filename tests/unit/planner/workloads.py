"""A workload whose numbers can be worked out by hand, to be changed one field at a time."""

from dataclasses import replace

from megatron_longrlvr.model.rope_spec import RopeSpec
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.workload import CriticPart, Lengths, Rollout, Workload

SMALL = ModelSpec(
    architecture="LlamaForCausalLM",
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    norm_eps=1e-6,
    tie_word_embeddings=False,
    qkv_bias=False,
    qk_norm=False,
    rope=RopeSpec(kind="default", theta=1e4),
    max_position_embeddings=4096,
    initializer_range=0.02,
)


def workload(*, world_size=1, layout=None, rollout=None, **changes):
    """GRPO on :data:`SMALL`: 8 prompts of 96 tokens with 4 responses of 16."""
    engine = Rollout(
        engine="vllm_colocated",
        prompts_per_step=8,
        group_size=4,
        tensor_parallel=1,
        memory_share=0.5,
        kv_cache_gib=None,
        max_concurrent_samples=256,
        is_eager=False,
        sleep_level=1,
        bucket_bytes=2**20,
    )
    base = Workload(
        spec=SMALL,
        layout=ParallelLayout(world_size=world_size, **(layout or {})),
        longest=Lengths(prompt=96, response=16),
        typical=Lengths(prompt=96, response=16),
        rollout=replace(engine, **(rollout or {})),
        element_bytes=2,
        recompute="none",
        shared_prompt=True,
        micro_batch_tokens=160,
        logprob_chunk_tokens=64,
        updates_per_step=1,
        is_proximal_recomputed=True,
        has_reference=False,
        is_optimizer_sharded=True,
        host_frac=0.0,
        is_fp8=False,
        is_fused=False,
        has_judge=False,
        save_every=0,
    )
    return replace(base, **changes)


def critic(**changes):
    """As large as the policy."""
    part = CriticPart(
        spec=SMALL,
        element_bytes=2,
        recompute="none",
        is_optimizer_sharded=True,
        host_frac=0.0,
        is_offloaded=False,
    )
    return replace(part, **changes)
