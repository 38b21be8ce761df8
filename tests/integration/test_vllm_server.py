"""vLLM servers sample from the learner's weights, whatever happens to one of them.

Promise: samples are the same when a server hangs or is killed while it writes them; an update under
samples that are being written shows in their versions; updates by broadcast reach every server,
also when one is killed in the middle; whole runs that sample ahead learn from samples as old as
allowed. Servers are real. What all engines promise is asked in test_engine_protocol.
"""

import os
import signal
from dataclasses import replace

import pytest

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.rollout.engine import SamplingParams
from megatron_longrlvr.stages import PromptBatch
from megatron_longrlvr.trainer.session import run_training
from tests.support.spawn import run_distributed
from tests.support.vllm_runs import (
    gap,
    needs_vllm,
    perturb,
    random_prompts,
    start_engine,
    vllm_config,
    written,
)

pytestmark = needs_vllm

# fp32 on both sides, other kernels and other orders of summation.
AGREEMENT_ATOL = 1e-3
VOCAB_SIZE = len(toy_vocabulary())
LENGTHS = [70, 3, 41, 100]
GROUP_SIZE = 6
TIMEOUT_S = 500.0
NUM_WEIGHTS = 218_560  # as counted by the shapes of the wide toy
BUCKET_BYTES = 200_000
NUM_BUCKETS = 5
# Server and signal.
LOSSES = {"hung": (1, signal.SIGSTOP), "killed": (2, signal.SIGKILL)}
SERVERS = {
    "num_servers": 3,
    "transport": "broadcast",
    "broadcast_timeout_s": 4.0,
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


def check(rank, world_size, folder, run_dir):  # noqa: ARG001
    changes = {
        "rollout__engine": "vllm_server",
        "rollout__server": SERVERS,
        "rollout__max_concurrent_samples": 8,
    }
    policy, engine = start_engine(folder, run_dir=run_dir, changes=changes, verify_columns=1000)
    try:
        return {
            **update_while_writing(policy, engine),
            "lost": {
                how: lose_while_sending(policy, engine, place=place, signal_number=number)
                for how, (place, number) in LOSSES.items()
            },
            **lose_servers(engine),
        }
    finally:
        engine.close()


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


def lose_while_sending(policy, engine, *, place, signal_number):
    """What comes of an update during which a server is lost, and of the one after that.

    It is lost when its workers, and those of the others, wait for the second bucket.
    """
    publisher, process = engine.publisher, engine.processes[place]
    publisher.settings = replace(publisher.settings, bucket_bytes=BUCKET_BYTES)
    senders, sent = publisher._transport._senders, []
    send = senders.send

    def lose():
        sent.append(len(sent))
        if len(sent) == 2:
            os.killpg(process.pid, signal_number)
        return send()

    senders.send = lose
    told = {}
    for version in range(engine.version + 1, engine.version + 3):
        perturb(policy, seed=version)
        engine.publish(version)
        samples = engine.generate(batch(), sampling()).samples
        told[version] = versions(samples) == {(version, ())} and gap(policy, samples, 1.0)[0]
        senders.send = send
        if signal_number == signal.SIGSTOP:
            os.killpg(process.pid, signal.SIGCONT)
    members = [server.url in publisher._transport._members for server in engine.processes]
    return told, members, len(sent)


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


def test_an_update_waits_for_samples_that_are_being_written(found):
    """Each has one version; those that had not been begun have the new one."""
    assert found["during"][False] == {(2, ()), (3, ())}


def test_samples_go_on_with_the_new_weights_where_asked(found):
    assert (3, (4,)) in found["during"][True]
    assert found["during"][True] <= {(3, ()), (3, (4,)), (4, ())}
    assert found["after"] == {(4, ())}
    assert found["gap after"][0] < AGREEMENT_ATOL


@pytest.mark.parametrize(
    ("loss", "members"), [("hung", [True, True, True]), ("killed", [True, True, False])]
)
def test_a_server_lost_in_a_broadcast_costs_the_others_nothing(found, loss, members):
    """One that comes back takes part in the next update."""
    gaps, members_at_last, num_sent = found["lost"][loss]
    assert len(gaps) == 2
    for worst in gaps.values():
        assert worst is not False
        assert worst < AGREEMENT_ATOL
    assert members_at_last == members
    # Small buckets may have reached the others all the same; if not, one is sent again.
    assert num_sent in {NUM_BUCKETS, NUM_BUCKETS + 1}


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
    assert records[-1]["refit/gb"] == pytest.approx(4 * NUM_WEIGHTS / 1e9)
