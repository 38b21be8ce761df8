"""vLLM servers sample from the learner's weights, whatever happens to one of them.

Promise: log-probabilities that servers report are the learner's, before and after an update, at
temperature 1 and 0.7; samples are the same when a server hangs or is killed while it writes them;
a prompt that is too long is refused by name; an update under samples that are being written shows
in their versions; whole runs that sample ahead learn from samples as old as allowed; servers end
with the run that started them, however it ends. Servers are real.
"""

import os
import signal

import pytest
import torch

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import FinishReason, PromptBatch
from megatron_longrlvr.trainer.session import run_training
from tests.support.micro_batches import as_micro_batch
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import (
    needs_vllm,
    perturb,
    random_prompts,
    start_engine,
    vllm_config,
)

pytestmark = needs_vllm

# fp32 on both sides, other kernels and other orders of summation.
AGREEMENT_ATOL = 1e-3
VOCAB_SIZE = len(toy_vocabulary())
LENGTHS = [70, 3, 41, 100]
GROUP_SIZE = 6
TIMEOUT_S = 400.0
STOP_IDS = frozenset(range(2, VOCAB_SIZE, 3))  # a third of the tokens: some samples meet none
SERVERS = {
    "num_servers": 2,
    "health_every_s": 0.2,
    "health_timeout_s": 2.0,
    "health_failures": 2,
    "recovery_timeout_s": 60.0,
}


def batch(lengths=LENGTHS):
    prompts = random_prompts(lengths, vocab_size=VOCAB_SIZE)
    return PromptBatch(step=3, prompts=prompts, group_size=GROUP_SIZE)


def sampling(temperature=1.0, *, tokens=24):
    return SamplingParams(max_response_tokens=tokens, temperature=temperature, seed=5)


def written(samples):
    return [(one.prompt.prompt_id, one.sample_index, one.token_ids) for one in samples]


def gap(policy, samples, temperature):
    """Largest difference of log-probabilities, and over how many tokens."""
    learned = policy.logprobs([as_micro_batch(one) for one in samples], temperature=temperature)
    worst, count = 0.0, 0
    for sample, logprobs in zip(samples, learned, strict=True):
        own = logprobs[len(sample.prompt.token_ids) :]
        worst = max(worst, float((own - torch.tensor(sample.behavior_logprobs)).abs().max()))
        count += len(own)
    return worst, count


def check(rank, world_size, folder, run_dir):  # noqa: ARG001
    changes = {
        "rollout__engine": "vllm_server",
        "rollout__server": SERVERS,
        "rollout__max_concurrent_samples": 8,
    }
    policy, engine = start_engine(folder, run_dir=run_dir, changes=changes, verify_columns=1000)
    try:
        return {
            "gaps": agreement_before_and_after(policy, engine),
            **look_at_samples(engine),
            **update_while_writing(policy, engine),
            **lose_servers(engine),
        }
    finally:
        engine.close()


def agreement_before_and_after(policy, engine):
    """Gaps at both temperatures before and after an update; prompts are in the cache by then."""
    gaps = {}
    for version in (0, 1):
        if version:
            perturb(policy, seed=version)
        engine.publish(version)
        for temperature in (1.0, 0.7):
            samples = engine.generate(batch(), sampling(temperature)).samples
            gaps[version, temperature] = gap(policy, samples, temperature)
    perturb(policy, seed=2)
    gaps["stale"] = gap(policy, samples, 0.7)
    return gaps


def look_at_samples(engine):
    found = {"usual": written(engine.generate(batch(), sampling()).samples)}
    found["alone"] = written(engine.generate(batch(LENGTHS[:1]), sampling()).samples)
    usual, engine.stop_ids = engine.stop_ids, STOP_IDS
    samples = engine.generate(batch(), sampling(tokens=3)).samples
    found["ends"] = [(one.finish_reason, one.token_ids) for one in samples]
    engine.stop_ids = usual
    try:
        engine.generate(batch([200]), sampling())
    except RuntimeError as error:
        found["too long"] = str(error)
    return found


def update_while_writing(policy, engine):
    """Versions of samples that were under way, by whether they were to go on, and afterwards."""
    engine.publish(2)
    found = {}
    for version, in_flight in ((3, False), (4, True)):
        engine.publisher.in_flight = in_flight
        perturb(policy, seed=version)
        # Several times as many as the servers write at the same time: most are still to come.
        pending = engine.begin(batch(4 * LENGTHS), sampling(tokens=50))
        engine.publish(version)
        found[in_flight] = versions(pending.finish().samples)
    samples = engine.generate(batch(), sampling()).samples
    return {"during": found, "after": versions(samples), "gap after": gap(policy, samples, 1.0)}


def versions(samples):
    return {(one.policy_version, tuple(one.later_versions)) for one in samples}


def lose_servers(engine):
    """Samples that were under way when a server stopped, and when one was killed."""
    found = {}
    found["whole"] = written(engine.generate(batch(), sampling(tokens=50)).samples)
    processes = engine.processes
    pending = engine.begin(batch(), sampling(tokens=50))
    os.killpg(processes[0].pid, signal.SIGSTOP)
    found["hung"] = written(pending.finish().samples)
    found["resent for hung"] = num_resent = engine.pool.num_resent
    os.killpg(processes[0].pid, signal.SIGCONT)
    pending = engine.begin(batch(), sampling(tokens=50))
    os.killpg(processes[1].pid, signal.SIGKILL)
    found["killed"] = written(pending.finish().samples)
    found["resent for killed"] = engine.pool.num_resent - num_resent
    return found


def train(rank, world_size, config):  # noqa: ARG001
    return run_training(config)


@pytest.fixture(scope="module")
def wide_toy():
    return RECIPES / "toy_start_wide"


@pytest.fixture(scope="module")
def found(wide_toy, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("servers")
    return run_distributed(check, 1, wide_toy, run_dir, timeout_s=TIMEOUT_S)[0]


def test_servers_and_learner_agree_before_and_after_an_update(found):
    gaps = found["gaps"]
    for version in (0, 1):
        for temperature in (1.0, 0.7):
            worst, count = gaps[version, temperature]
            assert worst < AGREEMENT_ATOL
            assert count >= 400
    assert gaps["stale"][0] > 10 * AGREEMENT_ATOL


def test_samples_do_not_depend_on_what_is_written_beside_them(found):
    assert found["alone"] == found["usual"][:GROUP_SIZE]
    assert len({token_ids for *_, token_ids in found["alone"]}) > 1


def test_samples_end_as_they_say(found):
    for reason, token_ids in found["ends"]:
        assert STOP_IDS.isdisjoint(token_ids[:-1])
        assert (token_ids[-1] in STOP_IDS) == (reason is FinishReason.STOP)
        assert reason is FinishReason.STOP or len(token_ids) == 3
    assert {reason for reason, _ in found["ends"]} == {FinishReason.STOP, FinishReason.LENGTH}


def test_a_prompt_that_is_too_long_is_refused_by_name(found):
    assert "refused sample p0/" in found["too long"]
    assert "prompt of 200 tokens" in found["too long"]
    assert "maximum model length of 160" in found["too long"]


def test_an_update_waits_for_samples_that_are_being_written(found):
    """Each has one version; those that had not been begun have the new one."""
    assert found["during"][False] == {(2, ()), (3, ())}


def test_samples_go_on_with_the_new_weights_where_asked(found):
    assert (3, (4,)) in found["during"][True]
    assert found["during"][True] <= {(3, ()), (3, (4,)), (4, ())}
    assert found["after"] == {(4, ())}
    assert found["gap after"][0] < AGREEMENT_ATOL


@pytest.mark.parametrize("loss", ["hung", "killed"])
def test_samples_are_the_same_when_a_server_is_lost(found, loss):
    assert found[loss] == found["whole"]
    assert found[f"resent for {loss}"] > 0


def test_a_run_that_samples_ahead_learns_from_samples_one_step_old(wide_toy, tmp_path):
    config = vllm_config(
        wide_toy,
        tmp_path,
        rollout__engine="vllm_server",
        algorithm__max_staleness=1,
        algorithm__mismatch={"importance": "truncated"},
        trainer__eval_every=0,
    )
    assert run_distributed(train, 1, config, timeout_s=TIMEOUT_S) == [0]
    records = [one.metrics for one in read_metric_log(tmp_path / "metrics.jsonl")]
    assert [one["rollout/staleness_max"] for one in records] == [0, 1, 1, 1]
    assert all(one["update/skipped"] == 0 for one in records)
    # The first step's samples are of the weights that learn from them.
    assert records[0]["mismatch/gap_max"] < AGREEMENT_ATOL
    assert records[-1]["refit/gb"] == pytest.approx(4 * 218_560 / 1e9)  # weights of the wide toy
