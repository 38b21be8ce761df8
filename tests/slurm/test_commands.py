"""Promise, on a real Slurm: the commands of the README, from rendering to conversion.

One run of two tasks (a sweep) is trained, then evaluated and converted; the others are asked about
a program that waits.
"""

import json
import subprocess

import pytest
import yaml

from launch import queue, slurm
from launch.cli import main
from tests.support.jobs import site, submit_program
from tests.support.slurm_cluster import wait_for, wait_for_end

pytestmark = pytest.mark.usefixtures("cluster")

SMALL = [
    *("rollout.prompts_per_step=2", "rollout.group_size=2", "algorithm.updates_per_step=1"),
    *("trainer.steps=1", "trainer.eval_every=0", "evaluation.num_prompts=2"),
]
STARTED_S = 600
"""A busy machine imports torch slowly."""


@pytest.fixture
def profile(tmp_path):
    """The cluster's profile as a file."""
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(site(nodes=1).model_dump(mode="json")))
    return str(path)


def launched(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def test_sweep_trains_every_combination_and_its_runs_are_evaluated_and_converted(tmp_path, profile):
    sweep = tmp_path / "sweep"
    recipe = ["tiny_cpu", "--site", profile, *SMALL]
    launched(
        "submit",
        *recipe,
        f"run.dir={sweep}",
        "--job",
        "sweep",
        "--vary",
        "optimizer.lr=0.001,0.002",
    )
    (array,) = queue.submitted_jobs(sweep)
    for task in ("0", "1"):
        state = wait_for_end(f"{array}_{task}", limit_s=STARTED_S)
        assert state.state == "COMPLETED"
    rates = [
        json.loads((sweep / name / "config.json").read_text())["optimizer"]["lr"]
        for name in ("000", "001")
    ]
    assert rates == [0.001, 0.002]
    run = sweep / "000"
    for job in ("evaluate", "convert"):
        launched("submit", *recipe, f"run.dir={run}", "--job", job)
    for job in ("evaluate", "convert"):
        (job_id,) = queue.submitted_jobs(run / job)
        assert wait_for_end(job_id, limit_s=STARTED_S).state == "COMPLETED"
    assert json.loads((run / "evaluate" / "metrics.json").read_text())
    assert (run / "convert" / "hf" / "model.safetensors").is_file()


def test_data_stage_runs_each_shard_and_again_only_those_that_failed(tmp_path, profile):
    stage, out = tmp_path / "stage.yaml", tmp_path / "out"
    program = f"echo once more >> {out}/$0; test $0 != 1 -o -e {out}/mended"
    content = {
        "name": "lines",
        "dir": str(tmp_path / "stage"),
        "shards": 3,
        "command": ["bash", "-c", program, "{shard}"],
    }
    stage.write_text(yaml.safe_dump(content))
    out.mkdir()
    asked = ["submit", stage, "--site", profile, "--job", "data"]
    for last_state in ("FAILED", "COMPLETED"):
        launched(*asked)
        array = queue.submitted_jobs(tmp_path / "stage")[-1]
        states = [wait_for_end(f"{array}_{shard}").state for shard in range(3)]
        assert states == ["COMPLETED", last_state, "COMPLETED"]
        (out / "mended").touch()
    assert [len((out / str(shard)).read_text().splitlines()) for shard in range(3)] == [1, 2, 1]
    assert len(list((tmp_path / "stage" / "00001").glob("*-0/data-*.log"))) == 2


def test_check_asks_slurm_and_queues_nothing(tmp_path, profile, capsys):
    launched("check", "tiny_cpu", "--site", profile, f"run.dir={tmp_path}/run")
    assert "to start at" in capsys.readouterr().out
    assert slurm_jobs() == []


def slurm_jobs():
    shown = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True)
    return shown.stdout.split()


def test_rendered_script_is_submitted_by_hand_as_well(tmp_path):
    job = submit_program(tmp_path, "meets", site())
    wait_for_end(job)
    again = subprocess.run(
        ["sbatch", "--parsable", str(tmp_path / "job" / "job.sbatch")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert wait_for_end(again).state == "COMPLETED"


def test_waiting_job_is_shown_attached_to_explained_and_cancelled_with_its_chain(tmp_path, capsys):
    job = submit_program(tmp_path, "waits", site(nodes=1))
    followers = queue.chain(tmp_path, 2)
    wait_for((tmp_path / "waiting").exists, "the ranks to start", limit_s=STARTED_S)
    launched("status", tmp_path)
    shown = capsys.readouterr().out
    assert f"job {job}: RUNNING" in shown
    assert f"job {followers[1]}: PENDING Dependency" in shown
    launched("explain", tmp_path)
    assert "it is still running" in capsys.readouterr().out
    command = slurm.attach_command(job, None)
    beside = [*command[: command.index("--pty")], "ps", "-ww", "-eo", "args"]
    assert "waits.py" in subprocess.run(beside, capture_output=True, text=True, check=True).stdout
    launched("cancel", tmp_path)
    assert [wait_for_end(each).state for each in (job, *followers)] == ["CANCELLED"] * 3
    launched("explain", tmp_path)
    assert "CANCELLED: cancelled by its owner" in capsys.readouterr().out
