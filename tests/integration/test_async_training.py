"""Whole training loops that sample ahead, with a real learner and a scripted engine.

Promise: with k = 0 the loop leaves the weights of the synchronous one, bit for bit; with k above 0
every step learns from the prompts it would have had, from samples as old as k allows, and a run
that is stopped and resumed loses no prompt and learns from none twice.
"""

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import list_samples, read_samples
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.trainer.assembly import assemble
from megatron_longrlvr.trainer.async_loop import SamplesAhead
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.loop import train
from megatron_longrlvr.trainer.run_dir import claim_run_dir
from tests.support.learners import gather_weights
from tests.support.runs import toy_config

# What a clock or an allocator measures; everything else must repeat.
MEASURED = ("timing/", "memory/", "rollout/tokens_per_s")
LOGPROB = -1.5


def respond(step, prompt, index):  # noqa: ARG001 - what is written does not depend on the step
    """Now and then right, so that groups teach something; the same whenever it is asked."""
    draw = random.Random(f"{prompt.prompt_id}/{index}")
    chunks = sorted(prompt.evidence_chunk_ids)
    cited = " ".join(f"<CHUNK_{chunk}>" for chunk in draw.sample(chunks, draw.randrange(1, 4)))
    answer = prompt.reference_answers[0] if draw.random() < 0.5 else "none"
    return ScriptedResponse(
        text=f"<useful_chunks> {cited} </useful_chunks> <answer> {answer} </answer>",
        logprob=LOGPROB,
    )


def run(rank, world_size, config, max_staleness, stop_at=None):  # noqa: ARG001
    """Train with a scripted engine; ``None`` for the synchronous loop.

    Asked to stop when ``stop_at`` begins to be sampled. Returns the weights.
    """
    groups = start_process_groups(ParallelLayout(world_size=world_size), seed=config.run.seed)
    run_dir = claim_run_dir(config, Path(config.run.dir), may_write=True)
    built = assemble(config, groups, run_dir)
    on_demand = built.parts.collector.sampler
    stop = StopRequest()

    def script(step, prompt, index):
        if step == stop_at:
            stop.signal_name = "SIGTERM"
        return respond(step, prompt, index)

    engine = ScriptedEngine(script, on_demand.engine.tokenizer)
    engine.publish(built.parts.learner.version)
    sampler = dataclasses.replace(on_demand, engine=engine)
    if max_staleness is not None:
        sampler = SamplesAhead(
            on_demand.prompts,
            engine,
            on_demand.params,
            max_staleness=max_staleness,
            last_step=config.trainer.steps,
        )
    collector = dataclasses.replace(built.parts.collector, sampler=sampler)
    parts = dataclasses.replace(built.parts, collector=collector, publisher=engine)
    is_complete = train(dataclasses.replace(built, parts=parts, evaluator=None), stop)
    assert is_complete == (stop_at is None)
    built.journal.close()
    return gather_weights(parts.learner)


def settings(run_dir, **changes):
    corrected = {"importance": "truncated"}
    return toy_config(run_dir, trainer__eval_every=0, algorithm__mismatch=corrected, **changes)


def metrics(run_dir):
    """By step, those that must repeat."""
    return {
        record.step: {
            name: value for name, value in record.metrics.items() if not name.startswith(MEASURED)
        }
        for record in read_metric_log(run_dir / "metrics.jsonl")
    }


def learned_from(run_dir):
    """(step, prompt, place in its group) of every sample, in order."""
    return sorted(
        (record.step, record.prompt_id, record.sample_index)
        for path in list_samples(run_dir)
        for record in read_samples(path)
    )


@pytest.fixture(scope="module")
def synchronous(pool1, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("synchronous")
    (weights,) = pool1.run(run, settings(run_dir), None)
    return run_dir, weights


@pytest.fixture(scope="module")
def one_ahead(pool1, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("one_ahead")
    (weights,) = pool1.run(run, settings(run_dir), 1)
    return run_dir, weights


def test_without_staleness_it_is_the_synchronous_loop_bit_for_bit(pool1, synchronous, tmp_path):
    run_dir, weights = synchronous
    (same,) = pool1.run(run, settings(tmp_path), 0)
    assert all(torch.equal(same[name], tensor) for name, tensor in weights.items())
    assert metrics(tmp_path) == metrics(run_dir)
    assert learned_from(tmp_path) == learned_from(run_dir)
    assert all(one["update/skipped"] == 0 for one in metrics(run_dir).values())


def test_staleness_is_counted_where_samples_are_learned_from(synchronous, one_ahead):
    for (run_dir, _), expected in ((synchronous, [0, 0, 0, 0]), (one_ahead, [0, 1, 1, 1])):
        steps = metrics(run_dir).values()
        assert [one["rollout/staleness_mean"] for one in steps] == expected
        assert [one["rollout/staleness_max"] for one in steps] == expected
        assert {one["rollout/mixed_versions_frac"] for one in steps} == {0}


def test_running_ahead_changes_no_prompt_of_any_step(synchronous, one_ahead):
    assert learned_from(one_ahead[0]) == learned_from(synchronous[0])


def test_a_run_resumed_with_samples_under_way_is_the_run_that_did_not_stop(
    pool1, one_ahead, tmp_path
):
    """The script's answers do not depend on the weights, so the whole learning must agree."""
    pool1.run(run, settings(tmp_path), 1, 3)
    assert list(metrics(tmp_path)) == [1, 2]  # left with the samples of step 3 under way
    (weights,) = pool1.run(run, settings(tmp_path), 1)
    assert learned_from(tmp_path) == learned_from(one_ahead[0])
    assert all(torch.equal(weights[name], tensor) for name, tensor in one_ahead[1].items())
    ages = [one["rollout/staleness_mean"] for one in metrics(tmp_path).values()]
    assert ages == [0, 1, 0, 1]  # step 3 is sampled again, from the newest weights
