"""Rollouts to read: spread over runs, steps and rewards, with every chunk marked."""

import pytest

from megatron_longrlvr.observability.samples import to_record
from megatron_longrlvr.reporting.rollouts import (
    ChunkMark,
    mark_chunks,
    select_rollouts,
    spread_ranks,
)
from megatron_longrlvr.reporting.run_record import load_runs
from tests.unit.observability.builders import scored_sample
from tests.unit.reporting.run_dirs import make_run, renamed


def samples(*rewards):
    return [
        scored_sample(reward=reward, sample_index=index) for index, reward in enumerate(rewards)
    ]


def test_two_runs_give_best_middle_and_worst_of_first_and_last_step(tmp_path):
    by_step = {step: samples(0.0, 0.4, 0.1, 0.3, 0.2) for step in (1, 5, 9)}
    dirs = [make_run(tmp_path / name, samples=by_step, config=renamed(name)) for name in ("a", "b")]
    chosen = [
        (rollout.run_label, rollout.record.step, rollout.record.reward, rollout.standing)
        for rollout in select_rollouts(load_runs(dirs))
    ]
    assert chosen == [
        (name, step, reward, standing)
        for name in ("a", "b")
        for step in (1, 9)
        for reward, standing in ((0.4, "best of 5"), (0.2, "rank 3 of 5"), (0.0, "worst of 5"))
    ]


def test_single_file_is_read_once(tmp_path):
    run_dir = make_run(tmp_path / "a", samples={1: samples(0.0, 1.0)})
    assert [rollout.record.reward for rollout in select_rollouts(load_runs([run_dir]))] == [
        1.0,
        0.0,
    ]


def test_equal_rewards_are_ranked_by_f_beta(tmp_path):
    scored = [scored_sample(f_beta=value) for value in (0.25, 0.75, 0.5)]
    run_dir = make_run(tmp_path / "a", samples={1: scored})
    chosen = select_rollouts(load_runs([run_dir]))
    assert [rollout.record.reward_parts["context_f_beta"] for rollout in chosen] == [
        0.75,
        0.5,
        0.25,
    ]


def test_sample_of_unknown_reward_has_no_rank(tmp_path):
    scored = [*samples(0.5, 0.25), scored_sample(reward=9.0, is_valid=False)]
    run_dir = make_run(tmp_path / "a", samples={1: scored})
    chosen = select_rollouts(load_runs([run_dir]))
    assert [(one.record.reward, one.standing) for one in chosen] == [
        (0.5, "best of 2"),
        (0.25, "worst of 2"),
    ]


def test_runs_without_samples_give_none(tmp_path):
    assert select_rollouts(load_runs([make_run(tmp_path / "a")])) == []


@pytest.mark.parametrize(
    ("size", "count", "ranks"),
    [
        pytest.param(256, 3, [0, 128, 255], id="three"),
        pytest.param(256, 2, [0, 255], id="two"),
        pytest.param(3, 5, [0, 1, 2], id="all"),
        pytest.param(0, 3, [], id="none"),
    ],
)
def test_ranks_reach_from_best_to_worst(size, count, ranks):
    assert spread_ranks(size, count) == ranks


def test_every_chunk_gets_its_mark(tmp_path):
    scored = scored_sample(evidence=(1, 2), cited=(3, 1, 1, 7, -1))
    marks = [
        (chunk.chunk_id, chunk.text, chunk.mark) for chunk in mark_chunks(to_record(scored, step=1))
    ]
    assert marks == [
        (0, "zero", ChunkMark.NONE),
        (1, "one", ChunkMark.FOUND),
        (2, "two", ChunkMark.MISSED),
        (3, "three", ChunkMark.WRONG),
    ]
    run_dir = make_run(tmp_path / "a", samples={1: [scored]})
    assert select_rollouts(load_runs([run_dir]))[0].unknown_ids == [-1, 7]
