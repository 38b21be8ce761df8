"""Engines inside the ranks of a test; importable without vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.stages import Prompt, Sample
from tests.support.learners import start_policy
from tests.support.micro_batches import as_micro_batch
from tests.support.runs import toy_config

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed: bash launch/setup.sh --tests --vllm",
)
# Longest prompt and response of the tests; a block of the prefix cache is vLLM's shortest.
VLLM = {"kv_cache_gib": 0.05, "block_tokens": 32, "max_model_len": 160, "verify_every": 1}


def vllm_config(folder: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    settings = {
        "model__path": str(folder),
        "rollout__engine": "vllm_colocated",
        "rollout__vllm": {**VLLM, **changes.pop("vllm", {})},
    }
    return toy_config(run_dir, **{**settings, **changes})


def start_engine(
    folder: Path,
    world_size: int = 1,
    *,
    engine_dtype: str = "fp32",
    run_dir: Path = Path("unused"),
    changes: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **vllm: Any,
) -> tuple[Policy, Any]:
    """A policy and the engine of this rank; the engine has not been published to."""
    from megatron_longrlvr.trainer.engines import build_engine

    policy = start_policy(folder, {}, world_size, **(model or {}))
    config = vllm_config(folder, run_dir, model__dtype=engine_dtype, vllm=vllm, **(changes or {}))
    return policy, build_engine(config, policy, load_tokenizer(folder))


def random_prompts(lengths: list[int], *, vocab_size: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(3)
    return [
        Prompt(
            prompt_id=f"p{place}",
            text="",
            token_ids=torch.randint(5, vocab_size, (length,), generator=generator).tolist(),
            question="",
            chunks=(),
            evidence_chunk_ids=frozenset({0}),
            reference_answers=("x",),
        )
        for place, length in enumerate(lengths)
    ]


def perturb(policy: Policy, *, seed: int) -> None:
    """Move every weight of the policy by something an update could move it by."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for chunk in policy.chunks:
            for parameter in chunk.parameters():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                parameter.add_(0.1 * parameter.abs().mean() * noise)


def gap(policy: Policy, samples: Sequence[Sample], temperature: float) -> tuple[float, int]:
    """Largest difference from the learner's log-probabilities, and over how many tokens."""
    learned = policy.logprobs([as_micro_batch(one) for one in samples], temperature=temperature)
    worst, count = 0.0, 0
    for sample, logprobs in zip(samples, learned, strict=True):
        own = logprobs[len(sample.prompt.token_ids) :]
        worst = max(worst, float((own - torch.tensor(sample.behavior_logprobs)).abs().max()))
        count += len(own)
    return worst, count


def written(samples: Sequence[Sample]) -> list[tuple[str, int, tuple[int, ...]]]:
    """Who wrote what: prompt, place in the group, tokens."""
    return [(one.prompt.prompt_id, one.sample_index, tuple(one.token_ids)) for one in samples]
