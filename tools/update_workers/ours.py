"""Contender: our learner, with a group's prompt ``shared``, or ``repeated`` for each sample."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from shapes import LEARNING_RATE, Shape, config_of, serve, timed

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.policy import ModelConfig, OptimizerConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.initialization import random_hf_tensors
from megatron_longrlvr.model.learner import Learner, LearnerSettings
from megatron_longrlvr.model.policy import load_policy
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.stages import (
    AdvantageBatch,
    FinishReason,
    PackedBatch,
    PolicyVersion,
    Prompt,
    Sample,
    ScoredSample,
)


def build(model: str, longest: int) -> Learner:
    """A learner with random weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        config |= {"hidden_act": "silu", "rms_norm_eps": 1e-6, **config_of(model, longest=longest)}
        (folder / "config.json").write_text(json.dumps(config))
        spec = read_model_spec(folder)
        save_file(dict(random_hf_tensors(spec, seed=0)), folder / "model.safetensors")
        groups = start_process_groups(ParallelLayout(world_size=1), seed=0)
        policy = load_policy(folder, spec, groups, ModelConfig(path=name, dtype="fp32"))
    settings = LearnerSettings(
        optimizer=OptimizerConfig(lr=LEARNING_RATE), num_optimizer_steps=1000, temperature=1.0
    )
    return Learner(policy, settings)


def packed(shape: Shape, vocab_size: int, config: AlgorithmConfig) -> PackedBatch:
    """A group of random tokens."""
    draw = random.Random(0)
    prompt = Prompt(
        prompt_id="p",
        text="",
        token_ids=[draw.randrange(vocab_size) for _ in range(shape.prompt)],
        question="",
        chunks=(),
        evidence_chunk_ids=frozenset(),
        reference_answers=(),
    )
    samples = [
        Sample(
            prompt=prompt,
            sample_index=index,
            token_ids=[draw.randrange(vocab_size) for _ in range(shape.response)],
            text="",
            behavior_logprobs=[-9.0] * shape.response,
            finish_reason=FinishReason.STOP,
            policy_version=PolicyVersion(0),
        )
        for index in range(shape.group)
    ]
    batch = AdvantageBatch(
        step=1,
        scored=[ScoredSample.without_reward(sample) for sample in samples],
        advantages=[[draw.gauss(0, 1)] * shape.response for _ in samples],
        num_groups=1,
        num_dropped_groups=0,
    )
    (update,) = pack(batch, config=config, max_response_tokens=shape.response)
    return update


def main() -> None:
    """Serve."""
    model, longest, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    learner = build(model, longest)
    # A micro-batch holds the whole group, or one sample of it, as the other contenders do.
    config = AlgorithmConfig(
        shared_prompt=kind == "shared",
        micro_batch_tokens=10**9 if kind == "shared" else 1,
        proximal="behavior",
    )

    def answer(shape: Shape) -> dict[str, float]:
        update = packed(shape, learner.policy.spec.vocab_size, config)
        logprobs = timed(lambda: learner.policy.logprobs(update.micro_batches, temperature=1.0))
        batch = learner.add_logprobs(update, config)
        return {
            "logprobs_s": logprobs,
            "update_s": timed(lambda: learner.update(batch, config)),
        }

    serve(answer)


if __name__ == "__main__":
    main()
