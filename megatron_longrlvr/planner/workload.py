"""What a recipe asks for, as the planner sees it: the one place that reads its sections.

Shapes: P tokens of a prompt, R of a response, G samples per prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.flops import with_value_head
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.architecture import find_critic_architecture

Recompute = Literal["none", "selective", "full"]

_ELEMENT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of one prompt and one response."""

    prompt: int
    response: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """How samples are made, and by what."""

    engine: Literal["megatron", "vllm_colocated", "vllm_server"]
    prompts_per_step: int
    group_size: int
    tensor_parallel: int
    """Of the engine; that of the layout where the learner itself decodes."""

    memory_share: float
    kv_cache_gib: float | None
    max_concurrent_samples: int
    is_eager: bool
    sleep_level: int
    """0: it keeps its memory while the learner trains."""

    bucket_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticPart:
    """A critic, where it differs from the policy."""

    spec: ModelSpec
    element_bytes: int
    recompute: Recompute
    is_optimizer_sharded: bool
    host_frac: float
    is_offloaded: bool
    """Between its uses it lies in host memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One recipe on a number of ranks."""

    spec: ModelSpec
    layout: ParallelLayout
    longest: Lengths
    """What memory must hold."""

    typical: Lengths
    """What time is spent on."""

    rollout: Rollout
    element_bytes: int
    """Of a weight and of an activation."""

    recompute: Recompute
    shared_prompt: bool
    micro_batch_tokens: int
    logprob_chunk_tokens: int
    updates_per_step: int
    is_proximal_recomputed: bool
    has_reference: bool
    is_optimizer_sharded: bool
    host_frac: float
    """Share of the optimizer's state that lies in host memory."""

    is_fp8: bool
    """Matrix products of the layers in FP8; weights are kept in bf16 all the same."""

    is_fused: bool
    """Transformer Engine's layers. Their activations are counted as those of the local ones,
    which keep at least as much."""

    has_judge: bool
    save_every: int
    critic: CriticPart | None = None
    has_value_head: bool = False
    """Says of each token one number instead of the vocabulary's logits: a critic does."""

    def of_critic(self) -> Workload:
        """The critic's own part of the work, as if it were the policy."""
        assert self.critic is not None, "the recipe has no critic"
        critic = self.critic
        return replace(
            self,
            # Its embedding is tied to nothing.
            spec=replace(critic.spec, tie_word_embeddings=False),
            element_bytes=critic.element_bytes,
            recompute=critic.recompute,
            is_optimizer_sharded=critic.is_optimizer_sharded,
            host_frac=critic.host_frac,
            has_reference=False,
            critic=None,
            has_value_head=True,
        )

    @property
    def counted_spec(self) -> ModelSpec:
        """The model as FLOPs are counted of it."""
        return with_value_head(self.spec) if self.has_value_head else self.spec

    @property
    def num_logprob_passes(self) -> int:
        """Forward passes over the step's samples before the first update."""
        return int(self.is_proximal_recomputed) + int(self.has_reference)


def read_workload(
    config: TrainConfig, spec: ModelSpec, *, world_size: int, typical: Lengths | None = None
) -> Workload:
    """Read a recipe.

    Args:
        config: The recipe.
        spec: Its model.
        world_size: Ranks.
        typical: Mean lengths of prompts and responses; the longest if None.

    Raises:
        ConfigError: The layout fits neither the ranks nor the model; names the key.
    """
    layout = ParallelLayout.from_config(config.layout, world_size)
    spec.check_layout(layout)
    _check_engine_width(config, spec)
    longest = Lengths(
        prompt=config.data.max_prompt_tokens, response=config.rollout.max_response_tokens
    )
    _check_positions(spec, longest)
    algorithm = config.algorithm
    return Workload(
        spec=spec,
        layout=layout,
        longest=longest,
        typical=typical or longest,
        rollout=_read_rollout(config, layout),
        element_bytes=_ELEMENT_BYTES[config.model.dtype],
        recompute=config.model.recompute,
        shared_prompt=algorithm.shared_prompt,
        micro_batch_tokens=algorithm.micro_batch_tokens,
        logprob_chunk_tokens=config.model.logprob_chunk_tokens,
        updates_per_step=algorithm.updates_per_step,
        is_proximal_recomputed=algorithm.proximal == "recompute",
        has_reference=algorithm.kl.coefficient > 0,
        is_optimizer_sharded=config.optimizer.distributed,
        host_frac=config.optimizer.host_frac,
        is_fp8=config.model.fp8 is not None,
        is_fused=config.model.layers == "transformer_engine",
        has_judge=config.rewards.judge is not None,
        save_every=config.trainer.save_every,
        critic=_read_critic(config, spec),
    )


def _read_critic(config: TrainConfig, policy: ModelSpec) -> CriticPart | None:
    critic = config.critic
    if critic is None:
        return None
    return CriticPart(
        spec=policy if critic.path is None else find_critic_architecture(critic.path),
        element_bytes=_ELEMENT_BYTES[critic.dtype or config.model.dtype],
        recompute=critic.recompute or config.model.recompute,
        is_optimizer_sharded=critic.optimizer.distributed,
        host_frac=critic.optimizer.host_frac,
        is_offloaded=critic.offload,
    )


def _read_rollout(config: TrainConfig, layout: ParallelLayout) -> Rollout:
    rollout = config.rollout
    own = rollout.engine == "megatron"
    return Rollout(
        engine=rollout.engine,
        prompts_per_step=rollout.prompts_per_step,
        group_size=rollout.group_size,
        tensor_parallel=layout.tp if own else rollout.vllm.tensor_parallel,
        memory_share=rollout.vllm.memory_share,
        kv_cache_gib=rollout.vllm.kv_cache_gib,
        max_concurrent_samples=rollout.max_concurrent_samples,
        is_eager=own or rollout.vllm.enforce_eager,
        sleep_level=rollout.vllm.sleep_level,
        bucket_bytes=rollout.vllm.bucket_mib * 1024**2,
    )


def _check_engine_width(config: TrainConfig, spec: ModelSpec) -> None:
    """Refuse a width that vLLM would: it divides query heads, and repeats or divides keys."""
    width, keys = config.rollout.vllm.tensor_parallel, spec.num_kv_heads
    if config.rollout.engine == "megatron":
        return
    given = f"rollout.vllm.tensor_parallel={width}"
    if spec.num_heads % width:
        raise ConfigError(f"{given} does not divide the model's {spec.num_heads} attention heads")
    if keys % width and width % keys:
        raise ConfigError(
            f"{given} neither divides the model's {keys} key/value heads nor is a multiple of them"
        )


def _check_positions(spec: ModelSpec, longest: Lengths) -> None:
    total = longest.prompt + longest.response
    if total > spec.max_position_embeddings:
        raise ConfigError(
            f"data.max_prompt_tokens={longest.prompt} and rollout.max_response_tokens="
            f"{longest.response} add up to {total}; the model reads "
            f"{spec.max_position_embeddings} (max_position_embeddings)"
        )
