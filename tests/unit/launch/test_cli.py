"""The commands answer at once, without torch, and say in one line what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.exit_reason import AttemptExit, write_attempt_exit
from launch.requeue import Begin, write_begin

SMALL = ["rollout.prompts_per_step=32", "algorithm.updates_per_step=1"]
ROOT = Path(__file__).parents[3]


def test_nothing_of_launch_needs_torch():
    modules = ", ".join(
        f"launch.{path.stem}" for path in sorted((ROOT / "launch").glob("[a-z]*.py"))
    )
    heavy = {"torch", "numpy", "megatron.core"}
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["render", "nope", "--site", "example"], "no recipe 'nope'", id="recipe"),
        pytest.param(["render", "tiny_cpu", "--site", "nope"], "no site profile", id="site"),
        pytest.param(
            ["submit", "tiny_cpu", "--site", "example", "layout.tp=3"], "layout.tp=3", id="layout"
        ),
        pytest.param(["chain", "tiny_cpu", "--site", "example", "--jobs", "0"], "--jobs 0", id="0"),
        pytest.param(["local", "tiny_cpu", "--procs", "0"], "--procs 0", id="procs"),
        pytest.param(
            ["render", "tiny_cpu", "--site", "example", "run.dir=/dev/null/run"],
            "cannot write the job to /dev/null/run/job: ",
            id="no-place-for-it",
        ),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_written(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_run_that_never_started_is_explained(tmp_path, capsys):
    assert main(["explain", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no attempt has started\n"


def test_resume_of_what_was_not_rendered_says_how(tmp_path, capsys):
    assert main(["resume", str(tmp_path)]) == 2
    assert "`python -m launch render` writes it" in capsys.readouterr().err


def test_list_of_jobs_that_was_cut_short_is_named_with_its_line(tmp_path, capsys):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "submitted.jsonl").write_text('{"job_id": "7"}\n{"job_id": "')
    assert main(["cancel", str(tmp_path)]) == 2
    assert "job/submitted.jsonl:2 tells of no job" in capsys.readouterr().err


def test_script_of_a_run_that_was_moved_is_not_queued(tmp_path, capsys):
    assert main(["render", "tiny_cpu", "--site", "example", f"run.dir={tmp_path}/a", *SMALL]) == 0
    (tmp_path / "link").symlink_to("a")
    assert main(["resume", str(tmp_path / "link"), "--dry-run"]) == 0
    (tmp_path / "a").rename(tmp_path / "b")
    assert main(["resume", str(tmp_path / "b"), "--dry-run"]) == 2
    assert f"b/job/job.sbatch was written for {tmp_path}/a/job; " in capsys.readouterr().err


def test_tasks_of_an_array_are_told_one_by_one(tmp_path, capsys):
    for number in (0, 1):
        begin = Begin(job_id="0", restarts=0, checkpoint_step=0, started=0.0)
        write_begin(tmp_path / f"00{number}" / "7-0", begin)
    write_attempt_exit(tmp_path / "001" / "7-0", AttemptExit.refused("no progress"))
    assert main(["explain", str(tmp_path), "--job", "sweep"]) == 0
    assert main(["status", str(tmp_path), "--job", "sweep"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "000: left no record" in lines[0]
    assert "001: refused: no progress; " in lines[1]
    assert [line.partition(": ")[0] for line in lines[2:]] == [
        str(tmp_path / "000"),
        str(tmp_path / "001"),
    ]


def test_dry_run_renders_and_submits_nothing(tmp_path, capsys):
    run = ["tiny_cpu", f"run.dir={tmp_path}/run", "rollout.prompts_per_step=32"]
    arguments = ["submit", *run, "algorithm.updates_per_step=1", "--site", "example", "--dry-run"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"would submit {tmp_path}/run/job/job.sbatch\n"
    assert not (tmp_path / "run" / "job" / "submitted.jsonl").exists()
