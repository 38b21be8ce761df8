"""The megatron engine samples what it says it samples.

Promise: greedy decoding equals transformers' own greedy continuation token for token, and the
log-probabilities reported while sampling are those that the learner computes for the same tokens
later, at TP1, TP2 (with and without sequence parallelism), PP2, PP2 with interleaved chunks and,
for a mixture of experts, EP2; what is sampled depends neither on the layout nor on which samples
are decoded together.
"""

from itertools import chain
from pathlib import Path

import pytest
import torch

from megatron_longrlvr.parallel.groups import close_process_groups
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.megatron_engine import MegatronEngine
from megatron_longrlvr.stages import FinishReason, Prompt, PromptBatch
from tests.support.learners import start_policy
from tests.support.micro_batches import as_micro_batch
from tests.support.tiny_models import FAMILIES, VOCAB_SIZE, save_tiny_model, tiny_model

# Key/value cache against one causal pass: the same sums in another order, over 4 layers.
LOGPROB_ATOL = 1e-4
STOP_ID = 7
MAX_RESPONSE = 14
GREEDY = SamplingParams(max_response_tokens=MAX_RESPONSE, temperature=0.0, seed=0)
RANDOM = SamplingParams(max_response_tokens=MAX_RESPONSE, temperature=0.8, seed=5)
LAYOUTS = [
    pytest.param({"tp": 2}, id="tp2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
    pytest.param({"pp": 2, "vpp": 2}, id="pp2-vpp2"),
    pytest.param({"cp": 2}, id="cp2"),
]
EXPERT_LAYOUTS = [
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"ep": 2}, id="ep2"),
    pytest.param({"cp": 2, "ep": 2}, id="cp2-ep2"),
]
# Biases and tied embeddings, norms of queries and keys: what the layouts could tell apart.
LAID_OUT_FAMILIES = ("qwen2", "qwen3")


class NumberTokenizer:
    def decode(self, token_ids):
        return " ".join(str(token) for token in token_ids if token != STOP_ID)


def prompts() -> tuple[Prompt, ...]:
    """Prompts of unequal lengths."""
    generator = torch.Generator().manual_seed(1)
    return tuple(
        Prompt(
            prompt_id=f"p{index}",
            text="",
            token_ids=torch.randint(0, VOCAB_SIZE, (length,), generator=generator).tolist(),
            question="",
            chunks=(),
            evidence_chunk_ids=frozenset({0}),
            reference_answers=("x",),
        )
        for index, length in enumerate([9, 3, 17, 1, 12])
    )


def generate(
    rank,  # noqa: ARG001
    world_size,
    folder,
    layout,
    params,
    group_size,
    concurrent,
    num_prompts=5,
):
    """Token ids, log-probabilities and reasons as sampled, and the learner's log-probabilities.

    Of this rank's share of the prompts.
    """
    policy = start_policy(folder, layout, world_size)
    engine = MegatronEngine(
        policy,
        NumberTokenizer(),
        max_concurrent_samples=concurrent,
        stop_ids=frozenset({STOP_ID}),
    )
    share = slice(policy.groups.dp_rank, num_prompts, policy.groups.layout.dp)
    batch = PromptBatch(step=3, prompts=prompts()[share], group_size=group_size)
    samples = engine.generate(batch, params).samples
    temperature = params.temperature or 1.0
    learned = policy.logprobs(
        [as_micro_batch(sample) for sample in samples], temperature=temperature
    )
    result = [
        (
            sample.prompt.prompt_id,
            sample.sample_index,
            list(sample.token_ids),
            list(sample.behavior_logprobs),
            sample.finish_reason,
            logprobs[len(sample.prompt.token_ids) :].tolist(),
        )
        for sample, logprobs in zip(samples, learned, strict=True)
    ]
    close_process_groups()
    return result


def announce(rank, world_size, folder):  # noqa: ARG001
    """Samples as they were announced, and as they were returned."""
    policy = start_policy(folder, {}, world_size)
    engine = MegatronEngine(
        policy,
        NumberTokenizer(),
        max_concurrent_samples=3 * len(prompts()),
        stop_ids=frozenset({STOP_ID}),
    )
    announced = []
    batch = PromptBatch(step=3, prompts=prompts(), group_size=3)
    returned = engine.generate(batch, RANDOM, on_sample=announced.append).samples
    close_process_groups()
    return [
        [(one.prompt.prompt_id, one.sample_index, list(one.token_ids)) for one in listed]
        for listed in (announced, returned)
    ]


def saved(path_factory, family) -> Path:
    path = path_factory.mktemp("models") / family
    save_tiny_model(path, family, tie=family == "qwen2")
    return path


@pytest.fixture(scope="module", params=LAID_OUT_FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    return saved(tmp_path_factory, family)


@pytest.fixture(scope="module")
def expected_greedy(family):
    return greedy_by_prompt(family)


@pytest.fixture(scope="module")
def random_on_one_rank(pool1, folder):
    return pool1.run(generate, folder, {}, RANDOM, 3, 64)[0]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    return saved(tmp_path_factory, "mixtral")


@pytest.fixture(scope="module")
def mixture_on_one_rank(pool1, mixture):
    return pool1.run(generate, mixture, {}, RANDOM, 3, 64)[0]


def greedy_by_prompt(family):
    return {prompt.prompt_id: greedy(family, prompt) for prompt in prompts()}


def greedy(family, prompt):
    """transformers' likeliest continuation, recomputed from the start for each token."""
    model = tiny_model(family, tie=family == "qwen2")
    token_ids = list(prompt.token_ids)
    while len(token_ids) < len(prompt.token_ids) + MAX_RESPONSE:
        with torch.no_grad():
            token_ids.append(int(model(torch.tensor([token_ids])).logits[0, -1].argmax()))
        if token_ids[-1] == STOP_ID:
            break
    return token_ids[len(prompt.token_ids) :]


def whole(results):
    """Samples of all ranks in the order of the prompts, each once; ranks of a replica agree."""
    by_place = {}
    for sample in chain.from_iterable(results):
        assert by_place.setdefault(sample[:2], sample)[:3] == sample[:3]
    return [by_place[place] for place in sorted(by_place)]


def assert_greedy(samples, expected):
    assert [prompt_id for prompt_id, *_ in samples] == list(expected)
    for prompt_id, _, token_ids, *_ in samples:
        assert token_ids == expected[prompt_id]


def assert_logprobs_are_the_learners(samples):
    for *_, behavior, _, learned in samples:
        assert behavior == pytest.approx(learned, abs=LOGPROB_ATOL)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_decoding_on_one_rank_equals_transformers(pool1, tmp_path_factory, family):
    (samples,) = pool1.run(generate, saved(tmp_path_factory, family), {}, GREEDY, 1, 64)
    assert_greedy(samples, greedy_by_prompt(family))
    assert_logprobs_are_the_learners(samples)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_greedy_decoding_on_two_ranks_equals_transformers(pool2, folder, expected_greedy, layout):
    for samples in pool2.run(generate, folder, layout, GREEDY, 1, 64):
        assert_greedy(samples, expected_greedy)
        assert_logprobs_are_the_learners(samples)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_samples_do_not_depend_on_the_layout(pool2, folder, random_on_one_rank, layout):
    for samples in pool2.run(generate, folder, layout, RANDOM, 3, 64):
        assert [sample[:3] for sample in samples] == [sample[:3] for sample in random_on_one_rank]
        assert_logprobs_are_the_learners(samples)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS)
def test_greedy_decoding_of_a_mixture_on_two_ranks_equals_transformers(pool2, mixture, layout):
    samples = whole(pool2.run(generate, mixture, layout, GREEDY, 1, 64))
    assert_greedy(samples, greedy_by_prompt("mixtral"))
    assert_logprobs_are_the_learners(samples)


def test_greedy_decoding_of_a_mixture_on_pipelines_that_share_experts(pool4, mixture):
    samples = whole(pool4.run(generate, mixture, {"pp": 2, "ep": 2}, GREEDY, 1, 2))
    assert_greedy(samples, greedy_by_prompt("mixtral"))


# Of five prompts one rank has three: at a place for one prompt it goes on for longer.
@pytest.mark.parametrize("concurrent", [3, 64])
def test_random_samples_of_a_mixture_do_not_depend_on_who_holds_the_experts(
    pool2, mixture, mixture_on_one_rank, concurrent
):
    samples = whole(pool2.run(generate, mixture, {"ep": 2}, RANDOM, 3, concurrent))
    assert [sample[:3] for sample in samples] == [sample[:3] for sample in mixture_on_one_rank]
    assert_logprobs_are_the_learners(samples)


def test_rank_without_prompts_serves_the_tokens_of_the_others(pool2, mixture, mixture_on_one_rank):
    first, last = pool2.run(generate, mixture, {"ep": 2}, RANDOM, 3, 64, 1)
    assert [sample[:3] for sample in first] == [sample[:3] for sample in mixture_on_one_rank[:3]]
    assert last == []


@pytest.mark.parametrize("concurrent", [1, 3, 6, 9])
def test_samples_do_not_depend_on_what_is_decoded_beside_them(
    pool1, folder, random_on_one_rank, concurrent
):
    (samples,) = pool1.run(generate, folder, {}, RANDOM, 3, concurrent)
    assert [sample[:3] for sample in samples] == [sample[:3] for sample in random_on_one_rank]


def test_each_sample_is_announced_when_it_ends(pool1, folder):
    ((announced, returned),) = pool1.run(announce, folder)
    assert sorted(announced) == sorted(returned)
    # All start together, so that the shortest ends first.
    lengths = [len(token_ids) for _, _, token_ids in announced]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1


def test_samples_of_a_group_differ_and_end_as_they_say(random_on_one_rank):
    by_prompt: dict[str, list] = {}
    for prompt_id, _, token_ids, _, reason, _ in random_on_one_rank:
        by_prompt.setdefault(prompt_id, []).append(token_ids)
        if reason is FinishReason.STOP:
            assert token_ids[-1] == STOP_ID
        else:
            assert len(token_ids) == MAX_RESPONSE
        assert STOP_ID not in token_ids[:-1]
    for group in by_prompt.values():
        # Two of them may both stop at once.
        assert len({tuple(token_ids) for token_ids in group}) > 1
