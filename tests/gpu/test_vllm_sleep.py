"""A colocated engine gives its memory back while the learner trains, and samples the same after.

Needs a GPU: vLLM cannot sleep on CPU.
"""

import pytest
import torch

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PromptBatch
from tests.support.micro_batches import as_micro_batch
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import needs_vllm, perturb, random_prompts, start_engine

pytestmark = [
    pytest.mark.gpu,
    needs_vllm,
    pytest.mark.skipif(not has_cuda(), reason="no CUDA device; vLLM cannot sleep on CPU"),
]

VOCAB_SIZE = 297
KV_CACHE_GIB = 2.0
# bf16 on both sides: a handful of ulps of log-probabilities between 1 and 8.
AGREEMENT_ATOL = 0.25
TIMEOUT_S = 600.0


def samples_of(engine):
    prompts = random_prompts([70, 41, 100], vocab_size=VOCAB_SIZE)
    params = SamplingParams(max_response_tokens=24, temperature=1.0, seed=5)
    return engine.generate(PromptBatch(step=3, prompts=prompts, group_size=2), params).samples


def written(samples):
    return [(one.prompt.prompt_id, one.sample_index, one.token_ids) for one in samples]


def gap(policy, samples):
    learned = policy.logprobs([as_micro_batch(one) for one in samples], temperature=1.0)
    return max(
        float(
            (row[len(one.prompt.token_ids) :].cpu() - torch.tensor(one.behavior_logprobs))
            .abs()
            .max()
        )
        for one, row in zip(samples, learned, strict=True)
    )


def sleep_and_wake(rank, world_size, folder, level):  # noqa: ARG001
    policy, engine = start_engine(
        folder, engine_dtype="bf16", sleep_level=level, kv_cache_gib=KV_CACHE_GIB
    )
    engine.publish(0)
    first = samples_of(engine)
    asleep = torch.cuda.mem_get_info()[0]
    again = samples_of(engine)
    perturb(policy, seed=1)
    engine.publish(1)
    awake = samples_of(engine)
    engine.memory.wake("weights", "kv_cache")
    freed = asleep - torch.cuda.mem_get_info()[0]
    return {
        "same": written(first) == written(again),
        "moved": written(awake) != written(first),
        "gap": gap(policy, awake),
        "freed_gib": freed / 1024**3,
    }


@pytest.mark.parametrize("level", [1, 2])
def test_engine_that_slept_samples_the_same_and_takes_updates(level):
    folder = RECIPES / "toy_start_wide"
    (found,) = run_distributed(sleep_and_wake, 1, folder, level, timeout_s=TIMEOUT_S)
    assert found["same"]
    assert found["moved"]
    assert found["gap"] < AGREEMENT_ATOL
    assert found["freed_gib"] > 0.9 * KV_CACHE_GIB
