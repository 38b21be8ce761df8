"""A run whose processes are killed at any moment and started again ends as if nothing had happened.

Promise: after SIGKILL of every rank while it starts, samples, judges, computes log-probabilities,
takes optimizer steps, writes metrics, samples and a checkpoint, removes an old checkpoint,
measures or exports, the same command goes on; the records of every step stand in metrics.jsonl
once, and they, the samples and the weights of the end are those of a run without a stop, bit for
bit. Each layout is killed at all of these moments, one after the other, in one run. Not covered:
CUDA, a power failure that loses what the file system had not written yet.
"""

import random

import pytest

from tests.support.judge_server import JudgeServer, verdict
from tests.support.judges import judge_settings
from tests.support.killed_runs import how_it_ends, records, run, samples, weights
from tests.support.moments import Moment
from tests.support.runs import toy_config
from tests.support.spawn import run_distributed

LAYOUTS = {"dp2": {}, "tp2": {"layout__tp": 2}, "pp2": {"layout__pp": 2}}
NUM_STEPS = 7
LONGEST_DELAY_S = 0.02


MOMENTS = [
    Moment("rollout.megatron_engine", "MegatronEngine._decode_step", 5),  # before any checkpoint
    Moment("evaluation.runner", "Evaluator.evaluate"),  # before the first step
    Moment("rewards.judge.cache", "VerdictCache.store", 3),
    Moment("rewards.scorer", "RewardScorer.score", 2),
    Moment("model.learner", "Learner.add_logprobs"),
    Moment("model.learner", "Learner.update", 2),  # between the updates of a step
    Moment("rollout.megatron_engine", "MegatronEngine.publish"),
    Moment("observability.metric_log", "MetricLog.append", 2),
    Moment("observability.samples", "to_record", 3),  # in the middle of a file
    Moment("checkpoint.store", "TraineeWrite"),  # planned, and a process writes it
    Moment("checkpoint.store", "save_random_state"),
    Moment("checkpoint.background", "BackgroundWrite.wait"),
    Moment("checkpoint.background", "BackgroundWrite.finish"),
    Moment("checkpoint.store", "write_manifest"),
    Moment("checkpoint.store", "publish"),
    Moment("checkpoint.manifest", "_remove"),
    Moment("checkpoint.store", "read_trainee"),  # while it starts again
    Moment("evaluation.runner", "Evaluator.evaluate"),  # after a step
    Moment("trainer.session", "export_policy"),  # after the last one
]


def half_right(request):
    """Yes to an answer that holds half the words of a reference: some do from the beginning."""
    words = set(request.answer.split())
    return verdict(
        any(2 * len(words & set(one.split())) > len(set(one.split())) for one in request.references)
    )


def config(run_dir, url, layout):
    return toy_config(
        run_dir,
        rewards__answer="judge",
        rewards__judge=judge_settings(endpoints=[{"url": url}], cache="judge.sqlite"),
        algorithm__updates_per_step=2,
        trainer__steps=NUM_STEPS,
        trainer__save_every=1,
        trainer__keep_checkpoints=1,
        trainer__eval_every=3,
        trainer__export_hf=True,
        **layout,
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_killed_at_every_moment_a_run_ends_as_if_it_had_not_been(tmp_path, layout):
    delays = random.Random(0)
    with JudgeServer(half_right) as server:
        straight, killed = tmp_path / "straight", tmp_path / "killed"
        assert run_distributed(run, 2, config(straight, server.url, layout)) == [0, 0]
        for moment in MOMENTS:
            delay_s = delays.uniform(0, LONGEST_DELAY_S)
            ended = how_it_ends(config(killed, server.url, layout), moment, delay_s)
            assert "died with exit code -9" in ended, f"{delay_s * 1000:.0f} ms after {moment}"
        assert run_distributed(run, 2, config(killed, server.url, layout)) == [0, 0]
    assert records(killed) == records(straight)
    assert samples(killed) == samples(straight)
    assert weights(killed) == weights(straight)
