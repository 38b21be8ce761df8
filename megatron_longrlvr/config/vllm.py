"""Settings of the vLLM engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_longrlvr.config.section import Section


class VllmConfig(Section):
    """How vLLM runs inside the training processes; read where ``rollout.engine`` names it."""

    tensor_parallel: int = Field(default=1, gt=0)
    """Ranks that hold one engine's model between them; divides the processes of the run and is
    independent of ``layout.tp``."""

    memory_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of a device's memory that the engine may take, weights and key/value cache."""

    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Size of the key/value cache of a rank (GiB), instead of what ``memory_share`` leaves; null
    leaves it to ``memory_share`` on GPU and takes 0.25 on CPU."""

    max_model_len: int | None = Field(default=None, gt=0)
    """Longest prompt and response together, in tokens; null for what ``data.max_prompt_tokens``
    and ``rollout.max_response_tokens`` add up to."""

    block_tokens: int | None = Field(default=None, gt=0)
    """Tokens of a cache block; only whole blocks of a prompt are shared. Null for vLLM's choice."""

    prefix_caching: bool = True
    """Compute a group's prompt once and keep it until the next update."""

    chunked_prefill: bool | None = None
    """Cut long prompts into parts that run beside samples being decoded; null does on GPU and not
    on CPU, where vLLM cannot cut the prompt of a sample with a seed."""

    enforce_eager: bool = True
    """Run without CUDA graphs and without compilation."""

    sleep_level: Literal[0, 1, 2] = 1
    """Memory that is given back while training, on GPU: 0 nothing, 1 the cache, with the weights
    moved to the host, 2 the weights too: they are handed over again where something else is sampled
    before the next update, and a stop for mismatch cannot name its cause. vLLM cannot sleep on
    CPU."""

    bucket_mib: int = Field(default=256, gt=0)
    """Weights that are gathered and handed over at a time (MiB)."""

    verify_every: int = Field(default=10, ge=0)
    """Compare checksums of sampled columns of every tensor after every so many updates, the first
    included; 0 never does."""

    verify_columns: int = Field(default=4, gt=0)
    """Columns of each tensor that such a comparison reads back from the engine."""
