"""Whole training loops that sample ahead, with a real learner and a scripted engine.

Promise: with k = 0 the loop leaves the weights of the synchronous one, bit for bit; with k above 0
every step learns from the prompts it would have had, from samples as old as k allows; and a run
that is stopped, or killed, with samples under way goes on with these very samples and ends as if it
had not been, bit for bit.
"""

import dataclasses
import random
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.observability.samples import list_samples, read_samples
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.rollout.scripted import ScriptedEngine, ScriptedResponse
from megatron_longrlvr.trainer import assembly
from megatron_longrlvr.trainer.async_loop import SamplesAhead
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.loop import train
from megatron_longrlvr.trainer.session import share_run_dir
from tests.support.learners import gather_weights
from tests.support.moments import Moment, die_at
from tests.support.runs import toy_config
from tests.support.spawn import run_distributed

# What a clock or an allocator measures; everything else must repeat.
MEASURED = ("timing/", "memory/", "rollout/tokens_per_s")
LOGPROB = -1.5


def respond(version, prompt, index):
    """Now and then right, so that groups teach something; old samples are told by their numbers."""
    draw = random.Random(f"{prompt.prompt_id}/{index}/{version}")
    chunks = sorted(prompt.evidence_chunk_ids)
    cited = " ".join(f"<CHUNK_{chunk}>" for chunk in draw.sample(chunks, draw.randrange(1, 4)))
    answer = prompt.reference_answers[0] if draw.random() < 0.5 else "none"
    return ScriptedResponse(
        text=f"<useful_chunks> {cited} </useful_chunks> <answer> {answer} </answer>",
        logprob=LOGPROB - draw.random(),
    )


def scripted(config, groups, run_dir, *, max_staleness, on_step):
    """The run of a recipe whose engine follows the script; ``None`` for the synchronous loop."""

    def build_engine(config, policy, tokenizer):  # noqa: ARG001
        def script(step, prompt, index):
            on_step(step)
            return respond(engine.version, prompt, index)

        engine = ScriptedEngine(script, tokenizer)
        return engine

    def build_sampler(config, prompts, engine):
        on_demand = sampler_of_the_recipe(config, prompts, engine)
        if max_staleness is None:
            return on_demand
        return SamplesAhead(
            prompts,
            engine,
            on_demand.params,
            max_staleness=max_staleness,
            last_step=config.trainer.steps,
        )

    sampler_of_the_recipe = assembly.build_sampler
    with patch.multiple(assembly, build_engine=build_engine, build_sampler=build_sampler):
        return assembly.assemble(config, groups, run_dir)


def run(rank, world_size, config, max_staleness, *, stop_at=None, moment=None):  # noqa: ARG001
    """Train with a scripted engine; asked to stop when ``stop_at`` begins to be sampled.

    Returns the weights.
    """
    if moment is not None:
        die_at(moment, 0.0)
    groups = start_process_groups(ParallelLayout(world_size=world_size), seed=config.run.seed)
    run_dir = share_run_dir(config, Path(config.run.dir), groups)
    stop = StopRequest()

    def on_step(step):
        if step == stop_at:
            stop.signal_name = "SIGTERM"

    built = scripted(config, groups, run_dir, max_staleness=max_staleness, on_step=on_step)
    is_complete = train(dataclasses.replace(built, evaluator=None), stop)
    assert is_complete == (stop_at is None)
    built.journal.close()
    return gather_weights(built.parts.learner)


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


def same_run(first, second):
    """Records, samples and weights of two runs, given as (directory, weights)."""
    assert metrics(first[0]) == metrics(second[0])
    assert learned_from(first[0]) == learned_from(second[0])
    assert all(torch.equal(second[1][name], tensor) for name, tensor in first[1].items())


def test_a_run_stopped_with_samples_under_way_goes_on_with_them(pool1, one_ahead, tmp_path):
    pool1.run(stopped_run, settings(tmp_path), 1, 3)
    assert list(metrics(tmp_path)) == [1, 2]  # left with the samples of step 3 under way
    (weights,) = pool1.run(run, settings(tmp_path), 1)
    same_run((tmp_path, weights), one_ahead)


def stopped_run(rank, world_size, config, max_staleness, stop_at):
    return run(rank, world_size, config, max_staleness, stop_at=stop_at)


def killed_run(rank, world_size, config, max_staleness, moment):
    return run(rank, world_size, config, max_staleness, moment=moment)


KILLED_AT = [
    Moment("trainer.async_loop", "SamplesAhead.unused"),
    Moment("checkpoint.store", "save_rollouts", 2),
    Moment("trainer.async_loop", "SamplesAhead.take_up"),
    Moment("model.learner", "Learner.update", 2),
]


def test_a_run_killed_with_samples_under_way_ends_as_if_it_had_not_been(pool2, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    frequent = {"trainer__save_every": 1, "trainer__keep_checkpoints": 1}
    whole, _ = pool2.run(run, settings(straight, **frequent), 2)
    config = settings(killed, **frequent)
    for moment in KILLED_AT:
        with pytest.raises(AssertionError, match="died with exit code -9"):
            run_distributed(killed_run, 2, config, 2, moment)
    weights, _ = pool2.run(run, config, 2)
    same_run((killed, weights), (straight, whole))
    ages = [one["rollout/staleness_max"] for one in metrics(killed).values()]
    assert ages == [0, 1, 2, 2]
