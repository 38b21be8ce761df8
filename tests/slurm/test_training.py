"""Promise, on a real Slurm: training over two nodes ends, and goes on after what befalls clusters.

Going on means: from the last checkpoint, with every step in metrics.jsonl once. That weights and
samples are those of an uninterrupted run is promised, and tested, where checkpoints are.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import queue
from launch.exit_reason import Cause, read_attempt_exit
from launch.requeue import checkpoint_step, list_attempts, read_begin
from launch.slurm import job_state
from megatron_longrlvr.observability.metric_log import read_metric_log
from tests.support.jobs import site, submit_training
from tests.support.slurm_cluster import slurm, wait_for, wait_for_end

pytestmark = pytest.mark.usefixtures("cluster")

ROOT = Path(__file__).parents[2]
SMALL = {"rollout__prompts_per_step": 2, "rollout__group_size": 2}
# More steps than a test waits for; the run is ended from outside.
ENDLESS = 100_000
STARTED_S = 600
"""A busy machine imports torch slowly."""


def steps(base):
    return [record.step for record in read_metric_log(base / "metrics.jsonl")]


def wait_for_step(base, step):
    wait_for(lambda: checkpoint_step(base) >= step, f"step {step} to be saved", limit_s=STARTED_S)


def wait_for_attempt(base, number):
    wait_for(lambda: len(list_attempts(base)) >= number, f"attempt {number}", limit_s=STARTED_S)


def node_names(nodes):
    return slurm("scontrol", "show", "hostnames", nodes).split()


def rank_process(base, rank):
    """Process id of a rank, seen from outside its node."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        is_rank = f"\0RANK={rank}\0".encode() in environment
        if is_rank and b"launch.rank" in command and str(base).encode() in command:
            parents[int(folder.name)] = parent
    # What a rank has forked looks like it.
    (found,) = [number for number, parent in parents.items() if parent not in parents]
    return found


def goes_on_from_a_checkpoint(base):
    """The second attempt starts after a saved step and gets further; then the job is cancelled."""
    begun = read_begin(list_attempts(base)[1]).checkpoint_step
    assert begun >= 1
    wait_for_step(base, begun + 2)
    queue.cancel(base)
    recorded = steps(base)
    assert recorded == list(range(1, len(recorded) + 1))
    return begun


def test_two_nodes_train_to_the_last_step_and_a_queued_follower_ends_at_once(tmp_path):
    base = tmp_path / "run"
    first = submit_training(base, site(), trainer__steps=3, **SMALL)
    (follower,) = queue.chain(base, 1)
    state = wait_for_end(first, limit_s=STARTED_S)
    assert (state.state, state.restarts, state.exit_code) == ("COMPLETED", 0, "0:0")
    assert steps(base) == [1, 2, 3]
    attempt = list_attempts(base)[-1]
    assert attempt.name == f"{first}-0"
    logs = {log.name for log in attempt.glob("*.log")}
    assert logs == {f"train-{node}.log" for node in ("node1", "node2")}
    assert "step 3/3" in (attempt / "train-node1.log").read_text()
    assert wait_for_end(follower).state == "COMPLETED"
    assert len(list_attempts(base)) == 1


def test_killed_rank_costs_no_more_than_the_steps_since_the_last_checkpoint(tmp_path):
    base = tmp_path / "run"
    submit_training(base, site(), trainer__steps=ENDLESS, **SMALL)
    wait_for_step(base, 2)
    os.kill(rank_process(base, 1), signal.SIGKILL)
    wait_for_attempt(base, 2)
    assert read_attempt_exit(list_attempts(base)[0]).cause is Cause.KILLED
    goes_on_from_a_checkpoint(base)


@pytest.fixture
def lose_power(cluster):
    return cluster.cut_power, cluster.start_node


@pytest.fixture
def lose_network(networks):
    return networks.cut_network, networks.join_network


@pytest.mark.parametrize("loss", ["lose_power", "lose_network"])
def test_lost_node_is_left_and_training_goes_on_elsewhere(tmp_path, request, loss):
    lose, mend = request.getfixturevalue(loss)
    base = tmp_path / "run"
    job = submit_training(base, site(), trainer__steps=ENDLESS, **SMALL)
    wait_for_step(base, 2)
    # The job script runs on the first of its two nodes.
    lost = sorted(list_attempts(base)[0].glob("train-*.log"))[1].stem.removeprefix("train-")
    assert lost in node_names(job_state(job).nodes)
    lose(lost)
    try:
        wait_for_attempt(base, 2)
        goes_on_from_a_checkpoint(base)
        now = node_names(job_state(job).nodes)
        assert len(now) == 2
        assert lost not in now
        wait_for_end(job)
    finally:
        mend(lost)


def test_time_limit_saves_the_step_in_progress_and_the_job_is_requeued(tmp_path):
    base = tmp_path / "run"
    profile = site(warning_s=45, stop_grace_s=25)
    job = submit_training(base, profile, trainer__steps=ENDLESS, trainer__save_every=50, **SMALL)
    wait_for((base / "metrics.jsonl").exists, "the first step", limit_s=STARTED_S)
    # Limits are in minutes, the end that follows from one is not. Slurm looks twice a minute and
    # warns up to half a minute too early.
    slurm("scontrol", "update", f"JobId={job}", "EndTime=now+75")
    wait_for(lambda: job_state(job).restarts == 1, "the requeue", limit_s=STARTED_S)
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    wait_for_attempt(base, 2)
    first, second = list_attempts(base)[:2]
    ended = read_attempt_exit(first)
    assert (ended.cause, ended.is_requeued) == (Cause.STOPPED, True)
    saved = read_begin(second).checkpoint_step
    assert saved == max(step for step in steps(base) if step <= saved)
    assert f"stopped after step {saved}, as asked" in "".join(
        log.read_text() for log in first.glob("*.log")
    )
    wait_for(lambda: steps(base)[-1] > saved + 1, "further steps", limit_s=STARTED_S)
    queue.cancel(base)
    assert wait_for_end(job).state == "CANCELLED"
    recorded = steps(base)
    assert recorded == list(range(1, len(recorded) + 1))


@pytest.fixture
def checkout(tmp_path):
    """What the plain scripts are submitted from, with a place of its own for what they write."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("megatron_longrlvr", "launch", "slurm", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def sbatch(checkout, *arguments):
    environment = {
        **os.environ,
        "LONGRLVR_PYTHON": sys.executable,
        "LONGRLVR_PROCS": "1",
        # A job that has a node to itself has its GPUs; those here are in Slurm's books only.
        "LONGRLVR_PREFLIGHT": "0 --gpus 0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
    }
    done = subprocess.run(
        ["sbatch", "--parsable", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_plain_script_alone_trains_its_recipe(checkout):
    """Which wants more processes than there are here, and says so."""
    job = sbatch(checkout, "--nodes=1", "--gpus-per-node=0", "slurm/train_8b.sbatch")
    assert wait_for_end(job, limit_s=STARTED_S).exit_code == "2:0"
    log = (checkout / f"longrlvr-{job}.log").read_text()
    assert "layout.tp=4 * layout.pp=1 * layout.cp=2 = 8 does not divide the 1 ranks" in log


def test_plain_scripts_train_and_convert(checkout):
    small = ["rollout.prompts_per_step=2", "rollout.group_size=2", "algorithm.updates_per_step=1"]
    script = ["--nodes=2", "--gpus-per-node=0", "--mem=1000", "slurm/train_8b.sbatch"]
    overrides = ["trainer.steps=1", "trainer.eval_every=0", "evaluation=null", *small]
    train = sbatch(checkout, *script, "tiny_cpu", *overrides)
    state = wait_for_end(train, limit_s=STARTED_S)
    log = (checkout / f"longrlvr-{train}.log").read_text()
    assert state.state == "COMPLETED", log
    assert "preflight: all-reduce between neighbours: " in log
    run = checkout / "runs" / "tiny_cpu"
    assert steps(run) == [1]
    convert = sbatch(checkout, "slurm/convert.sbatch", "to_hf", str(run), str(checkout / "hf"))
    state = wait_for_end(convert, limit_s=STARTED_S)
    assert state.state == "COMPLETED", (checkout / f"longrlvr-{convert}.log").read_text()
    assert (checkout / "hf" / "model.safetensors").is_file()
