"""Every rollout engine keeps the same promises; vLLM's are asked where vLLM is installed.

Promise: samples come once each and in order, end as they say and within the limit, carry the
version of their weights and the text of their tokens; a sample's random numbers are its own; with
weights, log-probabilities are the learner's at temperature 1 and 0.7, before and after an update;
engines with the same weights write the same where nothing is drawn; a prompt that is too long is
refused by name. What only one engine can do, or do wrong, is asked in a file of its own.
"""

import random

import pytest

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.data.tokenizer import load_tokenizer
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.stages import FinishReason, PromptBatch
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import gap, needs_vllm, perturb, random_prompts, start_engine, written

FOLDER = RECIPES / "toy_start_wide"
WORDS = toy_vocabulary()
VOCAB_SIZE = len(WORDS)
LENGTHS = [70, 3, 41, 100]
GROUP_SIZE = 6
STEP = 3
MAX_TOKENS, FEW_TOKENS = 24, 3
VERSIONS = (4, 7)
# fp32 on both sides, other kernels and other orders of summation.
AGREEMENT_ATOL = 1e-3
# Of the gap that the update of these tests makes, for the engine with the smallest.
UPDATE_GAP = 10 * AGREEMENT_ATOL
MORE_STOP_IDS = frozenset(range(2, VOCAB_SIZE, 3))  # a third: some samples meet none
TIMEOUT_S = 400.0

VLLM_ENGINES = [pytest.param(name, marks=needs_vllm) for name in ("vllm_colocated", "vllm_server")]
WITH_WEIGHTS = pytest.mark.parametrize("name", ["megatron", *VLLM_ENGINES])
ALL = pytest.mark.parametrize("name", ["scripted", "megatron", *VLLM_ENGINES])


def scripted(step, prompt, index):  # noqa: ARG001
    """Words, the same whenever they are asked for; some fit the limits and some do not."""
    draw = random.Random(f"{prompt.prompt_id}/{index}")
    words = draw.choices([word for word in WORDS if word.isalpha()], k=draw.randrange(1, 30))
    return ScriptedResponse(text=" ".join(words))


def start(name, run_dir):
    """The learner's policy, None where there is none, and the engine."""
    if name == "scripted":
        return None, ScriptedEngine(scripted, load_tokenizer(FOLDER))
    changes = {"rollout__engine": name, "rollout__max_concurrent_samples": 8}
    return start_engine(FOLDER, run_dir=run_dir, changes=changes)


def observe(rank, world_size, name, run_dir):  # noqa: ARG001
    """What an engine does, for all tests of it."""
    policy, engine = start(name, run_dir)
    tokenizer = load_tokenizer(FOLDER)

    def samples(lengths=LENGTHS, *, told=None, **params):
        prompts = random_prompts(lengths, vocab_size=VOCAB_SIZE)
        batch = PromptBatch(step=STEP, prompts=prompts, group_size=GROUP_SIZE)
        chosen = {"max_response_tokens": MAX_TOKENS, "temperature": 1.0, "seed": 5, **params}
        on_sample = None if told is None else told.append
        return engine.generate(batch, SamplingParams(**chosen), on_sample=on_sample).samples

    try:
        found = {"told": [], "gaps": {}}
        engine.publish(VERSIONS[0])
        found["samples"] = samples(told=found["told"])
        found["texts"] = [tokenizer.decode(one.token_ids) for one in found["samples"]]
        found["again"], found["alone"] = samples(), samples(LENGTHS[:1])
        if policy is not None:
            found |= observe_weights(policy, engine, samples)
        engine.stop_ids = tokenizer.stop_ids | MORE_STOP_IDS
        found["short"] = samples(max_response_tokens=FEW_TOKENS)
        found["stop_ids"] = engine.stop_ids
        return found
    finally:
        engine.close()


def observe_weights(policy, engine, samples):
    """What only an engine with weights does."""
    found = {"gaps": {}, "other seed": samples(seed=6), "greedy": samples(temperature=0.0)}
    latest = found["greedy"]
    for version in VERSIONS:
        if version != VERSIONS[0]:
            perturb(policy, seed=version)
            found["stale"] = gap(policy, latest, 0.7)
            engine.publish(version)
        for temperature in (1.0, 0.7):
            latest = samples(temperature=temperature)
            found["gaps"][version, temperature] = gap(policy, latest, temperature)
    found["updated"] = latest
    try:
        samples([600])
    except RuntimeError as refusal:
        found["too long"] = str(refusal)
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each engine does, observed when it is first asked for, in a process of its own."""
    cache = {}

    def of(name):
        if name not in cache:
            run_dir = tmp_path_factory.mktemp(name)
            (cache[name],) = run_distributed(observe, 1, name, run_dir, timeout_s=TIMEOUT_S)
        return cache[name]

    return of


def identities(samples):
    return [(one.prompt.prompt_id, one.sample_index) for one in samples]


@ALL
def test_every_sample_of_every_prompt_comes_once_and_in_order(seen, name):
    found, prompts = seen(name), random_prompts(LENGTHS, vocab_size=VOCAB_SIZE)
    expected = [(prompt.prompt_id, index) for prompt in prompts for index in range(GROUP_SIZE)]
    assert identities(found["samples"]) == expected
    assert sorted(identities(found["told"])) == sorted(expected)
    assert {one.prompt.prompt_id: one.prompt for one in found["samples"]} == {
        prompt.prompt_id: prompt for prompt in prompts
    }


@ALL
def test_a_sample_holds_tokens_their_text_and_their_logprobs(seen, name):
    found = seen(name)
    assert [one.text for one in found["samples"]] == found["texts"]
    for sample in found["samples"]:
        assert set(sample.token_ids) <= set(range(VOCAB_SIZE))
        assert len(sample.behavior_logprobs) == len(sample.token_ids)
        assert max(sample.behavior_logprobs) <= 0


@ALL
def test_samples_end_as_they_say_and_within_the_limit(seen, name):
    found, stop_ids = seen(name), load_tokenizer(FOLDER).stop_ids
    cases = [(found["samples"], MAX_TOKENS, stop_ids)]
    # A script knows the tokenizer's own stop tokens only.
    stop_ids = stop_ids if name == "scripted" else found["stop_ids"]
    cases.append((found["short"], FEW_TOKENS, stop_ids))
    for samples, limit, stop_ids in cases:
        for sample in samples:
            assert stop_ids.isdisjoint(sample.token_ids[:-1])
            has_stopped = sample.token_ids[-1] in stop_ids
            assert has_stopped == (sample.finish_reason is FinishReason.STOP)
            assert len(sample.token_ids) == limit or (has_stopped and len(sample.token_ids) < limit)
    reasons = {one.finish_reason for one in found["short"]}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


@ALL
def test_a_samples_random_numbers_are_its_own(seen, name):
    found = seen(name)
    assert written(found["again"]) == written(found["samples"])
    assert written(found["alone"]) == written(found["samples"])[:GROUP_SIZE]
    assert len({one.token_ids for one in found["alone"]}) > 1


@ALL
def test_samples_carry_the_version_of_their_weights(seen, name):
    found = seen(name)
    assert {one.policy_version for one in found["samples"]} == {VERSIONS[0]}
    assert {tuple(one.later_versions) for one in found["samples"]} == {()}


@WITH_WEIGHTS
def test_another_seed_draws_other_tokens(seen, name):
    found = seen(name)
    assert written(found["other seed"]) != written(found["samples"])


@WITH_WEIGHTS
def test_logprobs_are_the_learners_before_and_after_an_update(seen, name):
    gaps = seen(name)["gaps"]
    assert len(gaps) == 4
    for worst, num_tokens in gaps.values():
        assert worst < AGREEMENT_ATOL
        assert num_tokens >= 400


@WITH_WEIGHTS
def test_an_update_shows_in_what_is_sampled_and_in_its_version(seen, name):
    found = seen(name)
    assert found["stale"][0] > UPDATE_GAP
    assert {one.policy_version for one in found["updated"]} == {VERSIONS[1]}


@WITH_WEIGHTS
def test_greedy_samples_are_those_of_every_engine_with_these_weights(seen, name):
    greedy = written(seen(name)["greedy"])
    assert greedy == written(seen("megatron")["greedy"])
    by_prompt = {}
    for prompt_id, _, token_ids in greedy:
        by_prompt.setdefault(prompt_id, set()).add(token_ids)
    assert [len(group) for group in by_prompt.values()] == [1] * len(LENGTHS)


@WITH_WEIGHTS
def test_a_prompt_that_is_too_long_is_refused_by_name(seen, name):
    said = seen(name)["too long"]
    assert "p0" in said
    assert "600 tokens" in said
