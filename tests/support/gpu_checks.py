"""What tests/gpu and tools/benchmark_gpu.py compare, as functions of one rank on any device.

On CPU the tests run them small, so that they work before there is a GPU to run them on. Each takes
a rank and its world first (tests/support/spawn.py) and returns plain numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.policy import ModelConfig, OptimizerConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.block_attention import attend_blocks
from megatron_longrlvr.model.build import build_chunks
from megatron_longrlvr.model.flops import (
    FORWARD,
    FORWARD_AND_BACKWARD,
    forward_flops,
    group_work,
)
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.model.sequence_plan import plan_sequences
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.device import device, peak_tflops, synchronize
from megatron_longrlvr.parallel.groups import close_process_groups, start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.activations import LayerShape, layer_bytes
from megatron_longrlvr.planner.hardware import ACCELERATORS, GIB
from megatron_longrlvr.planner.memory import plan_memory
from megatron_longrlvr.planner.workload import Lengths
from megatron_longrlvr.stages import PackedBatch
from tests.support.emulated_fp8 import emulate_fp8
from tests.support.gradients import Pass
from tests.support.learners import TEMPERATURE, gather_gradients, start_learner, start_policy
from tests.support.masked_attention import mask_by_definition, masked_attention, segments_of
from tests.support.peak_memory import peak_memory
from tests.support.sample_groups import joined, random_groups
from tests.unit.planner.workloads import workload

# Groups whose rows hold a shared prompt and unequal responses.
GROUPS = ((203, (64, 17, 90, 1, 33)), (120, (40,)), (64, (30, 31)))
SHARED = {"shared_prompt": True, "micro_batch_tokens": 512}
REPEATED = {"shared_prompt": False, "micro_batch_tokens": 512}


def distances(
    _rank: int,
    world_size: int,
    folder: Path,
    expected: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    algorithm: Mapping[str, Any] = SHARED,
) -> dict[str, dict[str, float]]:
    """How far one pass computed in other ways is from the expected one.

    Args:
        folder: Hugging Face folder of the model.
        expected: Settings of ``model`` for the reference.
        others: Settings by name. ``emulate_fp8`` rounds as FP8 does what is computed in bf16.
        algorithm: How samples are packed.

    Returns:
        By name: largest and mean distance of a log-probability, share of the gradient's norm that
        the difference has, and the cosine between the gradients.
    """
    reference = _one_pass(folder, world_size, expected, algorithm)
    return {
        name: _distance(_one_pass(folder, world_size, settings, algorithm), reference)
        for name, settings in others.items()
    }


def _one_pass(
    folder: Path, world_size: int, settings: Mapping[str, Any], algorithm: Mapping[str, Any]
) -> tuple[Pass, Tensor]:
    settings = dict(settings)
    is_emulated = settings.pop("emulate_fp8", False)
    policy = start_policy(folder, {}, world_size, **settings)
    if is_emulated:
        assert sum(emulate_fp8(chunk) for chunk in policy.chunks) > 0
    # Weights in FP8 need the distributed optimizer; on one rank its gradients are whole.
    learner = start_learner(policy, distributed=policy.model.fp8 is not None)
    config = AlgorithmConfig(**algorithm)
    (packed,) = pack(
        joined(random_groups(seed=7, shapes=GROUPS)), config=config, max_response_tokens=128
    )
    # Delayed scaling knows nothing of the numbers before it has seen them once.
    for _ in range(2 if policy.model.fp8 is not None else 1):
        for chunk in learner.wrapped:
            chunk.zero_grad_buffer()
        batch = learner.add_logprobs(packed, config)
        results = run_micro_batches(
            learner.wrapped,
            policy.localize(packed.micro_batches),
            policy_gradient(batch, config),
            settings=policy.settings(TEMPERATURE),
            forward_only=False,
        )
    loss = learner._global_sums(results, ("loss",))["loss"]
    gradients = {name: each.float().cpu() for name, each in gather_gradients(learner).items()}
    logprobs = torch.cat(
        [
            row.cpu()[micro_batch.is_response]
            for row, micro_batch in zip(batch.proximal_logprobs, packed.micro_batches, strict=True)
        ]
    )
    close_process_groups()
    return (loss, gradients), logprobs


def _distance(found: tuple[Pass, Tensor], expected: tuple[Pass, Tensor]) -> dict[str, float]:
    ((_, gradients), logprobs), ((_, wanted), wanted_logprobs) = found, expected
    flat = torch.cat([gradients[name].flatten().double() for name in wanted])
    other = torch.cat([gradient.flatten().double() for gradient in wanted.values()])
    apart = (logprobs - wanted_logprobs).abs()
    return {
        "logprob_max": float(apart.max()),
        "logprob_mean": float(apart.mean()),
        "gradient_rel": float((flat - other).norm() / other.norm()),
        "gradient_cosine": float(torch.cosine_similarity(flat, other, dim=0)),
    }


def attention_errors(
    groups: Sequence[tuple[int, Sequence[int]]],
    *,
    dtype: torch.dtype,
    heads: tuple[int, int] = (8, 2),
    head_dim: int = 64,
) -> dict[str, float]:
    """Attention by blocks on this device against a masked softmax in float64 on the CPU.

    Args:
        groups: Tokens of a prompt and of the responses that share it.
        dtype: Of the inputs on the device.
        heads: Of queries, and of keys and values.
        head_dim: Size of a head.

    Returns:
        Largest difference of the output and of each gradient, over the largest expected number.
    """
    segments = segments_of(groups)
    tokens = sum(segment.num_tokens for segment in segments)
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(tokens, heads[0], head_dim)] + [(tokens, heads[1], head_dim)] * 2
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    upstream = torch.randn(shapes[0], generator=generator).to(dtype)
    plan = plan_sequences(segments, cp=1, cp_rank=0, multiple=1, device=device())
    inputs = [each.to(device()).requires_grad_() for each in drawn]
    exact = [each.double().requires_grad_() for each in drawn]
    out = attend_blocks(plan, *inputs)
    wanted = masked_attention(*exact, mask_by_definition(segments))
    found = [out, *torch.autograd.grad(out, inputs, upstream.to(device()))]
    expected = [wanted.detach(), *torch.autograd.grad(wanted, exact, upstream.double())]
    return {
        name: float((one.detach().double().cpu() - other).abs().max() / other.abs().max())
        for name, one, other in zip(
            ("out", "grad_query", "grad_key", "grad_value"), found, expected, strict=True
        )
    }


def random_learner(spec: ModelSpec, world_size: int, **model: Any) -> Learner:
    """A learner of random weights, made where they lie."""
    groups = start_process_groups(ParallelLayout(world_size=world_size), seed=0)
    config = ModelConfig(path="-", **model)
    chunks = build_chunks(spec, groups, config)
    for chunk in chunks:
        for parameter in chunk.parameters():
            # Norms of 1 and small matrices: hidden states stay in range.
            torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.02)
    policy = Policy(spec=spec, groups=groups, model=config, chunks=chunks)
    settings = LearnerSettings(
        optimizer=OptimizerConfig(lr=1e-6), num_optimizer_steps=100, temperature=1.0
    )
    return Learner(policy, settings)


def one_group(spec: ModelSpec, lengths: Lengths, group_size: int) -> PackedBatch:
    """A group in one row, its prompt shared."""
    shape = (lengths.prompt, (lengths.response,) * group_size)
    # Drawn from few tokens, which any vocabulary has.
    batch = joined(random_groups(seed=1, shapes=[shape]))
    config = AlgorithmConfig(micro_batch_tokens=10**9)
    (packed,) = pack(batch, config=config, max_response_tokens=lengths.response)
    assert spec.vocab_size >= 99
    return packed


def logprob_peaks(
    _rank: int,
    world_size: int,
    spec: ModelSpec,
    prompts: Sequence[int],
    response: int,
    model: Mapping[str, Any],
) -> list[dict[str, float]]:
    """Peak bytes of the log-probabilities of one long sample, beside weights, by prompt length.

    Returns:
        ``tokens``, ``peak_bytes`` and ``layer_bytes``: what one layer would keep for backward.
    """
    learner = random_learner(spec, world_size, **model)
    rows = []
    for prompt in prompts:
        packed = one_group(spec, Lengths(prompt=prompt, response=response), 1)
        weights = [each for chunk in learner.policy.chunks for each in chunk.parameters()]
        with peak_memory(weights) as peak:
            learner.policy.logprobs(packed.micro_batches, temperature=1.0)
        tokens = prompt + response
        rows.append(
            {
                "tokens": tokens,
                "peak_bytes": peak.num_bytes,
                "layer_bytes": layer_bytes(
                    LayerShape(
                        spec=spec,
                        layout=learner.policy.groups.layout,
                        tokens=tokens,
                        element_bytes=learner.policy.dtype.itemsize,
                    ),
                    "none",
                    has_experts=False,
                ),
            }
        )
    close_process_groups()
    return rows


def planned_and_measured(
    _rank: int,
    world_size: int,
    spec: ModelSpec,
    lengths: Lengths,
    group_size: int,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """GiB at the peak of two updates on one rank, as the planner has it and as it was.

    What CUDA takes besides torch's tensors is left out of both.
    """
    terms = planned_gib(spec, lengths, group_size, model)
    with peak_memory() as peak:
        learner = random_learner(spec, world_size, **model)
        # The second has the optimizer's state from its beginning.
        for _ in range(2):
            _update(learner, one_group(spec, lengths, group_size))
    close_process_groups()
    return {
        "planned_gib": sum(terms.values()),
        "measured_gib": peak.num_bytes / GIB,
        "terms_gib": terms,
    }


def planned_gib(
    spec: ModelSpec, lengths: Lengths, group_size: int, model: Mapping[str, Any]
) -> dict[str, float]:
    """The planner's terms of one rank that trains on one group at a time."""
    tokens = lengths.prompt + group_size * lengths.response
    settings = ModelConfig(path="-", **model)
    planned = workload(
        spec=spec,
        longest=lengths,
        typical=lengths,
        element_bytes=2 if settings.dtype == "bf16" else 4,
        recompute=settings.recompute,
        micro_batch_tokens=tokens,
        logprob_chunk_tokens=settings.logprob_chunk_tokens,
        is_fused=settings.layers == "transformer_engine",
        is_fp8=settings.fp8 is not None,
        rollout={"engine": "vllm_server", "prompts_per_step": 1, "group_size": group_size},
    )
    (stage,) = plan_memory(planned, ACCELERATORS["h200"])
    return {
        term.name: term.gib
        for term in (*stage.resident, *stage.training)
        if term.name != "CUDA and NCCL"
    }


def update_rate(
    _rank: int,
    world_size: int,
    spec: ModelSpec,
    lengths: Lengths,
    group_size: int,
    model: Mapping[str, Any],
    rounds: int = 2,
) -> dict[str, float | None]:
    """Seconds of log-probabilities and of an update, and the model FLOPs they come to.

    Each is run once before it is timed.

    Returns:
        ``mfu`` is the update's, against the device's dense bf16 peak; None where that is not known.
    """
    learner = random_learner(spec, world_size, **model)
    packed = one_group(spec, lengths, group_size)
    logprobs_s = _seconds(
        lambda: learner.policy.logprobs(packed.micro_batches, temperature=1.0), rounds
    )
    update_s = _seconds(lambda: _update(learner, packed), rounds)
    responses = [lengths.response] * group_size
    flops = forward_flops(spec, group_work(lengths.prompt, responses, shared_prompt=True))
    tflops = FORWARD_AND_BACKWARD * flops / update_s / 1e12
    best = peak_tflops()
    close_process_groups()
    return {
        "tokens": lengths.prompt + sum(responses),
        "logprobs_s": logprobs_s,
        "logprobs_tflops": FORWARD * flops / logprobs_s / 1e12,
        "update_s": update_s,
        "update_tflops": tflops,
        "mfu": None if best is None else tflops / best,
    }


def _update(learner: Learner, packed: PackedBatch) -> None:
    # The behaviour's log-probabilities serve as the proximal ones: no pass of their own.
    config = AlgorithmConfig(micro_batch_tokens=10**9, proximal="behavior")
    learner.update(learner.add_logprobs(packed, config), config)


def _seconds(work: Callable[[], object], rounds: int) -> float:
    work()
    synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    synchronize()
    return (time.perf_counter() - start) / rounds
