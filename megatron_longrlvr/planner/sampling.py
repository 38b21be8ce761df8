"""Seconds of sampling: prompts first, then tokens one after the other.

A step of decoding reads the weights once and the keys and values of every sample that is under way;
of the samples of one prompt, each reads the prompt's again, although the cache holds them once.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_longrlvr.model.flops import Work, causal_pairs, forward_flops, layer_weights
from megatron_longrlvr.planner import rates
from megatron_longrlvr.planner.hardware import Cluster
from megatron_longrlvr.planner.memory import Engine, kv_bytes_per_token
from megatron_longrlvr.planner.parameters import model_parameters
from megatron_longrlvr.planner.workload import Workload

_GIGA = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """One engine's share of a step."""

    prefill_s: float
    decode_s: float
    concurrent_samples: int
    """Under way at the same time, as far as the cache allows."""

    waves: int
    """Rounds in which all samples get their turn."""


def plan_sampling(workload: Workload, engine: Engine, cluster: Cluster) -> Sampling:
    """Time of the engines, each with an equal share of the prompts."""
    rollout = workload.rollout
    ranks_of_engine = rollout.tensor_parallel
    if rollout.engine == "megatron":
        ranks_of_engine *= workload.layout.pp * workload.layout.cp
    engines = max(workload.layout.world_size // ranks_of_engine, 1)
    prompts = -(-rollout.prompts_per_step // engines)
    samples = prompts * rollout.group_size
    concurrent = max(min(samples, rollout.max_concurrent_samples, _fitting(workload, engine)), 1)
    waves = -(-samples // concurrent)
    return Sampling(
        prefill_s=prompts * _prefill_s(workload, cluster),
        decode_s=waves * workload.typical.response * _token_s(workload, concurrent, cluster),
        concurrent_samples=concurrent,
        waves=waves,
    )


def _fitting(workload: Workload, engine: Engine) -> int:
    """Samples whose keys and values fit at once, the prompt of a group held once."""
    lengths, size = workload.typical, workload.rollout.group_size
    per_group = lengths.prompt + size * lengths.response
    groups, rest = divmod(engine.cache_tokens, per_group)
    return groups * size + max(rest - lengths.prompt, 0) // max(lengths.response, 1)


def _prefill_s(workload: Workload, cluster: Cluster) -> float:
    prompt, width = workload.typical.prompt, workload.rollout.tensor_parallel
    spec, device = workload.spec, cluster.accelerator
    products = Work(tokens=prompt, pairs=0, predictions=1)
    attention = Work(tokens=0, pairs=causal_pairs(prompt), predictions=0)
    rate = device.bf16_tflops * 1e12 * rates.PREFILL
    expert_frac = rates.EXPERT_GEMM_FRAC if spec.experts is not None else 1.0
    compute = forward_flops(spec, products) / (rate * rates.GEMM_BF16 * expert_frac)
    compute += forward_flops(spec, attention) / (rate * rates.ATTENTION_FORWARD)
    return compute / width + _all_reduce_s(workload, prompt, cluster)


def _token_s(workload: Workload, concurrent: int, cluster: Cluster) -> float:
    """One token of each sample under way."""
    spec, rollout, device = workload.spec, workload.rollout, cluster.accelerator
    width, typical = rollout.tensor_parallel, workload.typical
    per_token = kv_bytes_per_token(workload)
    cached = concurrent * (typical.prompt + typical.response / 2) * per_token
    weights = _read_weights(workload, concurrent) * workload.element_bytes / width
    memory_s = (weights + cached) / (device.memory_gb_per_s * _GIGA * rates.DECODE_MEMORY)
    work = Work(
        tokens=concurrent,
        pairs=concurrent * (typical.prompt + typical.response // 2),
        predictions=concurrent,
    )
    compute_s = forward_flops(spec, work) / width / (device.bf16_tflops * 1e12 * rates.GEMM_BF16)
    launch = rates.KERNEL_LAYER_EAGER_S if rollout.is_eager else rates.KERNEL_LAYER_S
    overhead = spec.num_layers * launch
    return max(memory_s, compute_s, overhead) + _all_reduce_s(workload, concurrent, cluster)


def _read_weights(workload: Workload, concurrent: int) -> float:
    """Weights that a decoding step reads: of experts, those that some sample is sent to."""
    spec = workload.spec
    total = float(model_parameters(spec))
    if spec.experts is None:
        return total
    experts = spec.experts
    share = 1 - (1 - experts.num_per_token / experts.num_experts) ** concurrent
    active = (
        sum(layer_weights(spec, layer) for layer in range(spec.num_layers))
        + 2 * spec.vocab_size * spec.hidden_size
    )
    return active + (total - active) * share


def _all_reduce_s(workload: Workload, tokens: int, cluster: Cluster) -> float:
    """Two sums over the engine's ranks in each layer."""
    width, spec = workload.rollout.tensor_parallel, workload.spec
    if width == 1:
        return 0.0
    size = tokens * spec.hidden_size * workload.element_bytes * 2 * (width - 1) / width
    rate = cluster.link_gb_per_s(width) * _GIGA * rates.LINK
    return 2 * spec.num_layers * (size / rate + rates.COLLECTIVE_S)
