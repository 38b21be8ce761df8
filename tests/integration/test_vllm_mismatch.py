"""What keeps vLLM and the learner apart is named rightly within one step.

Promise: each cause, brought about in a real engine, is found from the samples of one batch, and an
engine that agrees is not accused of anything that shows. The guard puts it into its message.
"""

import pytest
import torch

from megatron_longrlvr.algorithms.mismatch_cause import Cause
from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PromptBatch
from megatron_longrlvr.trainer.mismatch_evidence import Witness, examine
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import needs_vllm, perturb, random_prompts, start_engine

pytestmark = needs_vllm

VOCAB_SIZE = 297
TIMEOUT_S = 400.0
# fp32 on both sides, as in test_vllm_engine.
AGREEMENT_ATOL = 1e-3


def sample(engine, temperature=1.0):
    prompts = random_prompts([70, 41, 100], vocab_size=VOCAB_SIZE)
    batch = PromptBatch(step=3, prompts=prompts, group_size=2)
    params = SamplingParams(max_response_tokens=24, temperature=temperature, seed=5)
    return engine.generate(batch, params).samples


def cause(policy, engine, samples):
    return examine(policy, engine, samples, temperature=1.0).cause


def stale_weights(policy, engine):
    perturb(policy, seed=1)
    engine.llm.update_weights = lambda request: None  # noqa: ARG005 - vLLM's own name
    engine.publish(1)
    del engine.llm.update_weights
    return cause(policy, engine, sample(engine))


def stale_cache(policy, engine):
    sample(engine)
    perturb(policy, seed=2)
    engine.llm.reset_prefix_cache = lambda: True
    with pytest.raises(RefitMismatch):
        engine.publish(2)
    engine.version = 2
    samples = sample(engine)
    del engine.llm.reset_prefix_cache
    return cause(policy, engine, samples)


def wrong_rotation(policy, engine):
    from megatron_longrlvr.refit.publisher import engine_model

    caches = {
        id(module.cos_sin_cache): module.cos_sin_cache
        for module in engine_model(engine.llm).modules()
        if hasattr(module, "cos_sin_cache")
    }
    before = {key: cache.clone() for key, cache in caches.items()}
    for cache in caches.values():
        cache.copy_(cache[torch.arange(len(cache)) // 2].clone())  # as if scaled by 2
    found = cause(policy, engine, sample(engine))
    for key, cache in caches.items():
        cache.copy_(before[key])
    engine.llm.reset_prefix_cache()
    return found


def causes(rank, world_size, folder):  # noqa: ARG001
    policy, engine = start_engine(folder, verify_every=0)
    assert isinstance(engine, Witness)
    engine.publish(0)
    samples = sample(engine)
    afresh = engine.score_afresh([[*samples[0].prompt.token_ids, *samples[0].token_ids]])[0]
    gap = torch.tensor(afresh[-len(samples[0].token_ids) :]) - torch.tensor(
        samples[0].behavior_logprobs
    )
    found = {"agreement": float(gap.abs().max()), "differing": engine.differing_tensors()}
    found[Cause.TEMPERATURE] = cause(policy, engine, sample(engine, 0.7))
    found[Cause.STALE_WEIGHTS] = stale_weights(policy, engine)
    engine.publish(1)
    found[Cause.POSITIONS] = wrong_rotation(policy, engine)
    found[Cause.STALE_CACHE] = stale_cache(policy, engine)
    return found


def precision(rank, world_size, folder):  # noqa: ARG001
    policy, engine = start_engine(folder, engine_dtype="bf16", verify_every=0)
    engine.publish(0)
    return cause(policy, engine, sample(engine))


@pytest.fixture(scope="module")
def wide_toy():
    return RECIPES / "toy_start_wide"


@pytest.fixture(scope="module")
def found(wide_toy):
    return run_distributed(causes, 1, wide_toy, timeout_s=TIMEOUT_S)[0]


def test_engine_scores_its_own_samples_as_it_sampled_them(found):
    assert found["agreement"] < AGREEMENT_ATOL
    assert found["differing"] == []


@pytest.mark.parametrize(
    "injected", [Cause.TEMPERATURE, Cause.STALE_WEIGHTS, Cause.POSITIONS, Cause.STALE_CACHE]
)
def test_injected_cause_is_named(found, injected):
    assert found[injected] is injected


def test_engine_in_another_precision_is_named(wide_toy):
    assert run_distributed(precision, 1, wide_toy, timeout_s=TIMEOUT_S) == [Cause.PRECISION]
