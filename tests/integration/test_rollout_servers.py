"""Samples from several servers that fail as they are told; no vLLM is needed.

Promise: whatever happens to servers while they write, every sample of a step comes exactly once, as
it would have come without trouble, or the run stops with the cause. The servers are real ones over
HTTP, as is the rank that asks.
"""

import socket

import pytest

from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.rollout.sampling import sample_key
from megatron_longrlvr.rollout.server_pool import ServerPool
from megatron_longrlvr.rollout.vllm_server import VllmServerEngine
from megatron_longrlvr.stages import FinishReason, PromptBatch
from tests.support.http_server import HttpReply
from tests.support.rollout_server import LOGPROB, LONGEST_PROMPT, RolloutServer, tokens_of
from tests.support.word_prompts import word_prompt

STEP, GROUP, MAX_CONCURRENT = 7, 3, 4
STOP_IDS = frozenset({1, 2, 3, 4})
PARAMS = SamplingParams(max_response_tokens=6, temperature=0.9, seed=11)
PROMPTS = [word_prompt(f"p{place}", token_ids=(5, 6, place)) for place in range(6)]
# Short, so that tests are.
PATIENCE = {
    "health_every_s": 0.05,
    "health_timeout_s": 0.5,
    "health_failures": 2,
    "request_timeout_s": 600.0,  # a hung server is noticed by its health
    "recovery_timeout_s": 1.0,
}


class Numbers:
    stop_ids = STOP_IDS

    def decode(self, token_ids):
        return " ".join(str(token) for token in token_ids)


class UnchangedWeights:
    """The servers hold every version already."""

    def __init__(self, pool, background):
        self.pool, self.background = pool, background

    def publish(self, version):
        self.background.submit(self.pool.hold(version)).result()
        return {}


def ask(rank, world_size, urls, settings, prompts, layout):  # noqa: ARG001
    """What a rank gets for its share of the prompts: samples, or why there are none."""
    groups = start_process_groups(ParallelLayout(world_size=world_size, **layout), seed=0)
    background = BackgroundLoop("test")
    config = RolloutServerConfig(**{**PATIENCE, **settings})
    pool = ServerPool(urls, config, max_concurrent=MAX_CONCURRENT)
    engine = VllmServerEngine(
        pool,
        UnchangedWeights(pool, background),
        background,
        Numbers(),
        groups,
        stop_ids=STOP_IDS,
    )
    own = prompts[groups.dp_rank :: groups.layout.dp]
    told = []
    try:
        engine.publish(0)
        batch = PromptBatch(step=STEP, prompts=own, group_size=GROUP)
        samples = engine.generate(batch, PARAMS, on_sample=told.append).samples
        in_order = sorted(told, key=lambda one: (one.prompt.prompt_id, one.sample_index))
        assert in_order == (list(samples) if groups.tp_rank == 0 else [])
        return samples
    except RuntimeError as error:
        return str(error)
    finally:
        engine.close()


def run(pool1, servers, *, prompts=PROMPTS, **settings):
    (result,) = pool1.run(ask, [server.address for server in servers], settings, prompts, {})
    return result


def seed_of(prompt, index):
    key = sample_key(seed=PARAMS.seed, step=STEP, prompt_id=prompt.prompt_id, sample_index=index)
    return key % 2**63


SEEDS = [seed_of(prompt, index) for prompt in PROMPTS for index in range(GROUP)]


def written(seed):
    return tuple(tokens_of(seed, count=PARAMS.max_response_tokens, stop_ids=list(STOP_IDS)))


def assert_complete(samples, servers):
    """Every sample once, in order, as any server writes it; none answered and thrown away."""
    assert not isinstance(samples, str), samples
    names = [(sample.prompt.prompt_id, sample.sample_index) for sample in samples]
    assert names == [(prompt.prompt_id, index) for prompt in PROMPTS for index in range(GROUP)]
    assert [sample.token_ids for sample in samples] == [written(seed) for seed in SEEDS]
    answered = [seed for server in servers for seed in server.answered]
    assert sorted(answered) == sorted(SEEDS)


@pytest.fixture
def two():
    with RolloutServer() as first, RolloutServer() as second:
        yield first, second


def test_samples_come_in_order_as_the_seeds_say(pool1, two):
    samples = run(pool1, two)
    assert_complete(samples, two)
    for sample in samples:
        assert sample.behavior_logprobs == (LOGPROB,) * len(sample.token_ids)
        assert sample.text == " ".join(str(token) for token in sample.token_ids)
        assert (sample.policy_version, sample.later_versions) == (0, ())


def test_responses_cut_at_the_limit_say_so(pool1, two):
    samples = run(pool1, two)
    for sample in samples:
        is_cut = sample.token_ids[-1] not in STOP_IDS
        assert (sample.finish_reason is FinishReason.LENGTH) == is_cut
        assert len(sample.token_ids) == PARAMS.max_response_tokens or not is_cut
    assert {sample.finish_reason for sample in samples} == {FinishReason.STOP, FinishReason.LENGTH}


def test_a_group_goes_to_one_server_and_groups_are_shared_out(pool1, two):
    run(pool1, two)
    groups = [SEEDS[start : start + GROUP] for start in range(0, len(SEEDS), GROUP)]
    for place, server in enumerate(two):
        assert sorted(server.seeds) == sorted(seed for group in groups[place::2] for seed in group)


def dies_when_full(arrival):
    """Begins what it is asked for, and ends before any of it is written."""
    if arrival.index == MAX_CONCURRENT - 1:
        arrival.server.die_soon()
    return HttpReply(hangs=True)


def hangs_when_full(arrival):
    if arrival.index == MAX_CONCURRENT - 1:
        arrival.server.is_well = False
    return HttpReply(hangs=True)


@pytest.mark.parametrize("fault", [dies_when_full, hangs_when_full])
def test_what_a_lost_server_was_writing_is_written_by_another(pool1, fault):
    with RolloutServer(fault) as lost, RolloutServer() as other:
        assert_complete(run(pool1, [lost, other]), [other])
    # As many as may be under way at a server, and it was left alone afterwards.
    assert len(lost.seeds) == MAX_CONCURRENT


def test_a_request_that_hangs_on_a_server_that_is_well_is_sent_again(pool1):
    def hang_once(arrival):
        return HttpReply(hangs=True) if arrival.index == 2 else None

    with RolloutServer(hang_once) as server:
        assert_complete(run(pool1, [server], request_timeout_s=0.5), [server])
    assert len(server.seeds) == len(SEEDS) + 1


ABORTED = b'{"choices": [{"finish_reason": "abort", "token_ids": [], "logprobs": null}]}'


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(HttpReply(status=500, body=b'{"error": "no luck"}'), id="status-500"),
        pytest.param(HttpReply(status=503, body=b""), id="status-503"),
        pytest.param(HttpReply(body=b"<html>"), id="no-json"),
        pytest.param(HttpReply(body=b'{"choices": []}'), id="no-sample"),
        pytest.param(HttpReply(sent_share=0.5), id="cut-off"),
        pytest.param(HttpReply(sent_share=0.0), id="nothing"),
        pytest.param(HttpReply(body=ABORTED), id="given-up"),
    ],
)
def test_a_reply_that_is_no_sample_is_asked_for_again(pool1, reply):
    def now_and_then(arrival):
        return reply if arrival.index % 3 == 1 else None

    with RolloutServer(now_and_then) as first, RolloutServer(now_and_then) as second:
        servers = [first, second]
        assert_complete(run(pool1, servers, max_attempts=20), servers)
    assert len(first.seeds) + len(second.seeds) > len(SEEDS)


def test_a_server_that_only_fails_ends_in_an_error_with_the_cause(pool1):
    def fail(arrival):  # noqa: ARG001
        return HttpReply(status=500, body=b'{"error": "out of luck"}')

    with RolloutServer(fail) as server:
        said = run(pool1, [server], max_attempts=2)
    assert "sample p0/0 of step 7: a sample was asked for 2 times" in said
    assert "status 500, out of luck" in said


def test_no_server_at_all_is_an_error_with_the_cause(pool1):
    with socket.socket() as reserved:  # nobody else takes its port, and nobody listens there
        reserved.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        settings = {"recovery_timeout_s": 0.2, "health_timeout_s": 5.0}
        (said,) = pool1.run(ask, [address], settings, PROMPTS, {})
    assert "no rollout server was up for 0.2 s" in said
    assert f"{address}/health: no connection" in said


def test_a_prompt_that_is_too_long_is_refused_by_name_and_not_sent_again(pool1, two):
    long = word_prompt("long", token_ids=range(5, 6 + LONGEST_PROMPT))
    said = run(pool1, two, prompts=[long])
    assert "refused sample long/" in said
    assert f"with a prompt of {LONGEST_PROMPT + 1} tokens: The prompt is longer" in said
    seeds = [seed for server in two for seed in server.seeds]
    assert len(set(seeds)) == len(seeds)


def test_a_server_with_other_weights_is_not_asked(pool1):
    with RolloutServer(version="default") as stranger, RolloutServer() as known:
        assert_complete(run(pool1, [stranger, known]), [known])
    assert stranger.seeds == []


def test_weights_that_nobody_published_are_noticed_in_the_sample(pool1):
    with RolloutServer() as server:

        def change(arrival):  # noqa: ARG001
            server.version = "5"

        server.fault = change
        said = run(pool1, [server], health_every_s=60.0)
    assert "was written under version 5, expected 0 to 0" in said


@pytest.mark.parametrize("layout", [{"tp": 2}, {}], ids=["one-replica", "two-replicas"])
def test_all_ranks_of_a_replica_have_its_samples(pool2, two, layout):
    results = pool2.run(ask, [server.address for server in two], {}, PROMPTS, layout)
    if layout:
        assert results[0] == results[1]
        assert_complete(results[0], two)
    else:
        for place, samples in enumerate(results):
            names = [sample.prompt.prompt_id for sample in samples[::GROUP]]
            assert names == [prompt.prompt_id for prompt in PROMPTS[place::2]]
        assert sorted(two[0].answered + two[1].answered) == sorted(SEEDS)
