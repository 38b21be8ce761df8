"""What vLLM does on a GPU beside a policy, for tests/gpu and tools/benchmark_gpu.py."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PolicyVersion, PromptBatch, Sample
from tests.support.byte_tokenizer import save_byte_tokenizer
from tests.support.gpu_models import save_model
from tests.support.learners import start_policy
from tests.support.micro_batches import as_micro_batch
from tests.support.vllm_runs import perturb, random_prompts, start_engine, vllm_config

SLEEPY_MODEL = RECIPES / "toy_start_wide"
VOCAB_SIZE = 297
KV_CACHE_GIB = 2.0

# The weights of a few layers show the rate of all of them, and are made in seconds.
_REFIT_LAYERS = 4
_REFIT_VOCAB_SIZE = 32768


def sleep_and_wake(_rank: int, world_size: int, level: int) -> dict[str, Any]:
    """Samples before and after sleep, after an update, and how much memory sleeping gives back.

    Returns:
        Whether samples after sleep are the ``same``, whether an update ``moved`` them, the largest
        ``gap`` between a log-probability of the engine and of the policy, and ``freed_gib``.
    """
    policy, engine = start_engine(
        SLEEPY_MODEL,
        world_size,
        engine_dtype="bf16",
        sleep_level=level,
        kv_cache_gib=KV_CACHE_GIB,
    )
    engine.publish(PolicyVersion(0))
    first = _samples(engine)
    asleep = torch.cuda.mem_get_info()[0]
    again = _samples(engine)
    perturb(policy, seed=1)
    engine.publish(PolicyVersion(1))
    awake = _samples(engine)
    engine.memory.wake("weights", "kv_cache")
    freed = asleep - torch.cuda.mem_get_info()[0]
    return {
        "same": _written(first) == _written(again),
        "moved": _written(awake) != _written(first),
        "gap": _gap(policy, awake),
        "freed_gib": freed / 1024**3,
    }


def refit_rate(
    _rank: int, world_size: int, spec: ModelSpec, rounds: int = 3
) -> list[dict[str, float]]:
    """What publishing to a colocated engine reports, round by round; the first also sets up.

    Every round is verified against the engine's weights, so that wrong ones fail.
    """
    from megatron_longrlvr.trainer.engines import build_engine

    small = replace(spec, num_layers=_REFIT_LAYERS, vocab_size=_REFIT_VOCAB_SIZE)
    with tempfile.TemporaryDirectory() as name:
        folder = save_byte_tokenizer(save_model(Path(name), small))
        policy = start_policy(folder, {}, world_size, dtype="bf16")
        config = vllm_config(
            folder,
            Path("unused"),
            model__dtype="bf16",
            vllm={"kv_cache_gib": KV_CACHE_GIB, "verify_every": 1, "bucket_mib": 256},
        )
        engine = build_engine(config, policy, load_tokenizer(folder))
        found = []
        for version in range(rounds):
            perturb(policy, seed=version)
            found.append(dict(engine.publish(PolicyVersion(version))))
    return found


def _samples(engine: Any) -> Sequence[Sample]:
    prompts = random_prompts([70, 41, 100], vocab_size=VOCAB_SIZE)
    params = SamplingParams(max_response_tokens=24, temperature=1.0, seed=5)
    return engine.generate(PromptBatch(step=3, prompts=prompts, group_size=2), params).samples


def _written(samples: Sequence[Sample]) -> list[tuple[str, int, Sequence[int]]]:
    return [(one.prompt.prompt_id, one.sample_index, one.token_ids) for one in samples]


def _gap(policy: Policy, samples: Sequence[Sample]) -> float:
    learned = policy.logprobs([as_micro_batch(one) for one in samples], temperature=1.0)
    return max(
        float(
            (row[len(one.prompt.token_ids) :].cpu() - torch.tensor(one.behavior_logprobs))
            .abs()
            .max()
        )
        for one, row in zip(samples, learned, strict=True)
    )
