"""A run has one job at a time in the queue, whatever Slurm shows of its parts.

Slurm is a script here that shows what a real one does; a real one is asked in tests/slurm.
"""

import json

import pytest

from launch import supervise
from launch.cli import main
from launch.exit_reason import read_attempt_exit
from launch.requeue import Begin, write_begin
from launch.slurm import job_state

SHOWN = "JobId={} ArrayJobId=7 JobName=x JobState={} Reason=None Restarts=0 RunTime=0 ExitCode=0:0"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Have ``scontrol`` show tasks in these states."""

    def show(*states):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        lines = "\n".join(SHOWN.format(7 + index, state) for index, state in enumerate(states))
        (folder / "shown").write_text(f"{lines}\n")
        (folder / "scontrol").write_text(f"#!/bin/sh\ncat {folder}/shown\n")
        (folder / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return show


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["COMPLETED"], "COMPLETED"),
        (["COMPLETED", "RUNNING", "FAILED"], "RUNNING"),
        (["PENDING", "RUNNING"], "PENDING"),
        (["COMPLETED", "FAILED"], "COMPLETED"),
    ],
    ids=["single", "last-task-ended-first", "tasks-wait", "all-ended"],
)
def test_array_has_ended_when_all_of_its_tasks_have(scontrol, states, state):
    scontrol(*states)
    assert job_state("7").state == state


@pytest.mark.parametrize(
    ("job_id", "state", "code"),
    [("8", "RUNNING", 78), ("8", "NODE_FAIL", 0), ("7", "RUNNING", 0)],
    ids=["another-runs", "another-was-lost", "requeued"],
)
def test_job_does_not_start_where_another_one_runs(
    tmp_path, scontrol, monkeypatch, job_id, state, code
):
    scontrol(state)
    begin = Begin(job_id="7", restarts=0, checkpoint_step=0, started=0.0)
    write_begin(tmp_path / "7-0", begin)
    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    limits = ["--max-restarts", "9", "--max-stalled", "9"]
    attempt = tmp_path / f"{job_id}-1"
    asked = ["begin", "--run-dir", str(tmp_path), "--attempt", str(attempt), *limits]
    assert supervise.main(asked) == code
    ended = read_attempt_exit(attempt)
    assert ("job 7 runs in" in ended.detail) if code else ended is None


def test_refused_job_leaves_the_files_of_the_one_that_runs(tmp_path, scontrol, capsys):
    run = ["tiny_cpu", "--site", "example", f"run.dir={tmp_path}/run"]
    small = ["rollout.prompts_per_step=32", "algorithm.updates_per_step=1"]
    assert main(["render", *run, *small, "trainer.steps=5"]) == 0
    folder = tmp_path / "run" / "job"
    (folder / "submitted.jsonl").write_text(json.dumps({"job_id": "7"}) + "\n")
    before = {path: path.read_text() for path in folder.iterdir()}
    scontrol("RUNNING")
    assert main(["submit", *run, *small, "trainer.steps=9"]) == 2
    assert "job 7 of" in capsys.readouterr().err
    assert {path: path.read_text() for path in folder.iterdir()} == before
