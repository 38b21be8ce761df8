"""A run has one job at a time in the queue, whatever Slurm shows of its parts.

Slurm is a script here that shows what a real one does; a real one is asked in tests/slurm.
"""

import json

import pytest

from launch.cli import main
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
