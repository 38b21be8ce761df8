"""When a job is started again: after lost nodes and announced ends, never after errors.

The rules are tried here on files; on a real Slurm in tests/slurm.
"""

import pytest

from launch.exit_reason import (
    AttemptExit,
    Cause,
    NodeExit,
    read_attempt_exit,
    write_attempt_exit,
    write_node_exit,
)
from launch.requeue import (
    Begin,
    Limits,
    checkpoint_step,
    conclude,
    is_finished,
    list_attempts,
    refusal,
    write_begin,
)

LIMITS = Limits(max_restarts=3, max_stalled=1)


def begin(restarts=0, step=0, started=0.0):
    return Begin(job_id="7", restarts=restarts, checkpoint_step=step, started=started)


def node_exit(attempt, node, cause, at=0.0):
    write_node_exit(
        attempt, NodeExit(role="train", node=node, cause=cause, detail=f"of {node}", at=at)
    )


def concluded(attempt, *, num_nodes, is_warned=False, restarts=0):
    return conclude(
        attempt,
        begin=begin(restarts),
        num_nodes=num_nodes,
        is_warned=is_warned,
        limits=LIMITS,
    )


@pytest.mark.parametrize(
    ("cause", "is_warned", "is_requeued", "exit_code"),
    [
        pytest.param(Cause.FINISHED, False, False, 0, id="finished"),
        pytest.param(Cause.FINISHED, True, False, 0, id="finished-after-the-warning"),
        pytest.param(Cause.STOPPED, True, True, 130, id="time-limit-or-preemption"),
        pytest.param(Cause.STOPPED, False, False, 130, id="scancel"),
        pytest.param(Cause.KILLED, False, True, 74, id="killed-rank"),
        pytest.param(Cause.HUNG, False, True, 70, id="hang"),
        pytest.param(Cause.FAILED, False, False, 1, id="error"),
        pytest.param(Cause.FAILED, True, False, 1, id="error-after-the-warning"),
        pytest.param(Cause.UNJUDGED, False, False, 75, id="no-verdicts"),
        pytest.param(Cause.SETTING, True, False, 2, id="setting"),
    ],
)
def test_only_announced_ends_and_lost_nodes_are_requeued(
    tmp_path, cause, is_warned, is_requeued, exit_code
):
    node_exit(tmp_path, "a", cause)
    ended = concluded(tmp_path, num_nodes=1, is_warned=is_warned)
    assert (ended.cause, ended.is_requeued, ended.exit_code) == (cause, is_requeued, exit_code)


@pytest.mark.parametrize("cause", [Cause.KILLED, Cause.HUNG, Cause.STOPPED, Cause.FAILED])
@pytest.mark.parametrize("is_warned", [False, True])
def test_a_cancelled_job_is_not_requeued_however_its_ranks_took_it(tmp_path, cause, is_warned):
    node_exit(tmp_path, "a", cause)
    ended = conclude(
        tmp_path,
        begin=begin(),
        num_nodes=2,
        limits=LIMITS,
        is_warned=is_warned,
        is_terminated=True,
    )
    assert (ended.cause, ended.is_requeued) == (Cause.STOPPED, False)


def test_the_cap_holds_whatever_the_cause(tmp_path):
    node_exit(tmp_path, "a", Cause.STOPPED)
    assert concluded(tmp_path, num_nodes=1, is_warned=True, restarts=2).is_requeued
    ended = concluded(tmp_path, num_nodes=1, is_warned=True, restarts=3)
    assert not ended.is_requeued
    assert ended.next_step == "not requeued: max_restarts=3 are used up"


def test_a_killed_rank_explains_those_that_failed_before_it_was_seen(tmp_path):
    node_exit(tmp_path, "a", Cause.FAILED, at=1.0)
    node_exit(tmp_path, "b", Cause.KILLED, at=2.0)
    assert concluded(tmp_path, num_nodes=2).node == "b"


def test_among_equals_the_earliest_explains_the_others(tmp_path):
    node_exit(tmp_path, "a", Cause.FAILED, at=2.0)
    node_exit(tmp_path, "b", Cause.FAILED, at=1.0)
    assert concluded(tmp_path, num_nodes=2).node == "b"


def test_a_node_that_says_nothing_was_lost_and_the_job_is_requeued(tmp_path):
    node_exit(tmp_path, "a", Cause.FAILED)
    ended = concluded(tmp_path, num_nodes=2)
    assert (ended.cause, ended.is_requeued, ended.exit_code) == (Cause.LOST, True, 76)
    assert ended.detail == "1 of 2 nodes ended without a word (heard from: a)"


def test_a_wrong_setting_is_not_hidden_by_nodes_that_said_nothing(tmp_path):
    node_exit(tmp_path, "a", Cause.SETTING)
    assert concluded(tmp_path, num_nodes=2).cause is Cause.SETTING


def attempt(run_dir, number, step, *, is_requeued):
    folder = run_dir / f"7-{number}"
    write_begin(folder, begin(number, step, started=float(number)))
    if is_requeued is not None:
        ended = AttemptExit(
            cause=Cause.KILLED,
            detail="",
            node="",
            is_requeued=is_requeued,
            next_step="",
            exit_code=74,
        )
        write_attempt_exit(folder, ended)


@pytest.mark.parametrize(
    ("earlier", "step", "is_refused"),
    [
        pytest.param([], 0, False, id="first"),
        pytest.param([(0, True)], 0, False, id="one-without-progress"),
        pytest.param([(0, True), (0, True)], 0, True, id="two-without-progress"),
        pytest.param([(0, None), (0, None)], 0, True, id="two-cut-off-without-a-record"),
        pytest.param([(0, True), (0, True)], 5, False, id="progress-at-last"),
        pytest.param([(0, True), (5, True)], 5, False, id="progress-in-between"),
        pytest.param([(5, True), (5, False)], 5, False, id="a-person-has-looked-at-it"),
    ],
)
def test_starting_again_and_again_from_one_checkpoint_is_refused(
    tmp_path, earlier, step, is_refused
):
    for number, (at, is_requeued) in enumerate(earlier):
        attempt(tmp_path, number, at, is_requeued=is_requeued)
    problem = refusal(tmp_path, begin(len(earlier), step), LIMITS)
    assert (problem is not None) == is_refused


def test_more_restarts_than_the_cap_are_refused_even_if_slurm_made_them(tmp_path):
    assert refusal(tmp_path, begin(3), LIMITS) is None
    assert "max_restarts=3" in refusal(tmp_path, begin(4), LIMITS)


def test_attempts_are_listed_by_their_start_and_the_link_to_the_latest_is_none(tmp_path):
    attempt(tmp_path, 10, 0, is_requeued=True)
    attempt(tmp_path, 2, 0, is_requeued=True)
    (tmp_path / "latest").symlink_to("7-10")
    assert [folder.name for folder in list_attempts(tmp_path)] == ["7-2", "7-10"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cause": "?"}'])
def test_record_that_was_cut_short_stops_no_attempt(tmp_path, content):
    for number in (1, 2, 3):
        attempt(tmp_path, number, 5, is_requeued=False)
    (tmp_path / "7-1" / "begin.json").write_text(content)
    (tmp_path / "7-2" / "exit-train-n1.json").write_text(content)
    (tmp_path / "7-3" / "exit.json").write_text(content)
    (tmp_path / "finished.json").write_text(content)
    assert [folder.name for folder in list_attempts(tmp_path)] == ["7-2", "7-3"]
    assert refusal(tmp_path, begin(step=5), LIMITS) is None
    assert concluded(tmp_path / "7-2", num_nodes=1).cause is Cause.LOST
    assert not is_finished(tmp_path, 1)


def test_only_checkpoints_with_a_manifest_count(tmp_path):
    assert checkpoint_step(tmp_path) == 0
    for name in ("step_000010", "step_000120", "step_000130.partial", "step_000140"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    for name in ("step_000010", "step_000120", "step_000130.partial"):
        (tmp_path / "checkpoints" / name / "manifest.json").touch()
    assert checkpoint_step(tmp_path) == 120


def test_a_run_is_finished_at_its_last_step_and_not_at_an_earlier_one(tmp_path):
    assert not is_finished(tmp_path, 1)
    (tmp_path / "finished.json").write_text('{"steps": 10}')
    assert is_finished(tmp_path, 10)
    assert not is_finished(tmp_path, 11)


def test_the_record_of_an_attempt_reads_back(tmp_path):
    assert read_attempt_exit(tmp_path) is None
    ended = AttemptExit.refused("no progress")
    write_attempt_exit(tmp_path, ended)
    assert read_attempt_exit(tmp_path) == ended
    assert ended.exit_code == 78
