"""Promise, on a real Slurm of several nodes: what ends a job, what it says and whether it goes on.

The ranks are small programs (tests/slurm/programs) under the job script, agents and rules that
training runs under; training itself is in test_training.py.
"""

import json
import re
import subprocess

import pytest

from launch import queue, slurm
from launch.exit_reason import Cause, read_attempt_exit
from launch.job import CHECKOUT
from launch.render import write_job
from launch.requeue import list_attempts
from tests.support.jobs import site, submit_program, training_job
from tests.support.slurm_cluster import slurm as slurm_output
from tests.support.slurm_cluster import wait_for, wait_for_end

STARTED_S = 600
"""A busy machine starts Python slowly."""

PLAIN_SCRIPTS = sorted((CHECKOUT / "slurm").glob("*.sbatch"))

pytestmark = pytest.mark.usefixtures("cluster")


def last_exit(base):
    return read_attempt_exit(list_attempts(base)[-1])


def test_killed_rank_is_started_again_until_the_cap_and_the_job_fails(tmp_path):
    job = submit_program(tmp_path, "killed", site(max_restarts=1))
    state = wait_for_end(job)
    assert (state.state, state.restarts, state.exit_code) == ("FAILED", 1, "74:0")
    attempts = list_attempts(tmp_path)
    assert [attempt.name for attempt in attempts] == [f"{job}-0", f"{job}-1"]
    first, last = map(read_attempt_exit, attempts)
    assert (first.cause, first.is_requeued) == (Cause.KILLED, True)
    assert (last.cause, last.is_requeued) == (Cause.KILLED, False)
    assert last.next_step == "not requeued: max_restarts=1 are used up"
    assert last.detail == "rank 0 was killed (SIGKILL)"


def test_job_that_saves_nothing_is_not_started_for_ever(tmp_path):
    job = submit_program(tmp_path, "killed", site(nodes=1, max_stalled=0))
    state = wait_for_end(job)
    assert (state.state, state.restarts, state.exit_code) == ("FAILED", 1, "78:0")
    assert last_exit(tmp_path).detail.startswith("1 attempts in a row have started from step 0")


@pytest.mark.parametrize(
    ("program", "cause", "exit_code"),
    [
        pytest.param("refuses", Cause.SETTING, "2:0", id="wrong-setting"),
        pytest.param("fails", Cause.FAILED, "1:0", id="error"),
        pytest.param("unjudged", Cause.UNJUDGED, "75:0", id="no-verdicts"),
    ],
)
def test_error_ends_the_job_and_is_not_tried_again(tmp_path, program, cause, exit_code):
    state = wait_for_end(submit_program(tmp_path, program, site()))
    assert (state.state, state.restarts, state.exit_code) == ("FAILED", 0, exit_code)
    assert last_exit(tmp_path).cause is cause


def test_error_is_in_the_log_of_its_role_and_node(tmp_path):
    wait_for_end(submit_program(tmp_path, "fails", site()))
    attempt = list_attempts(tmp_path)[-1]
    logs = sorted(attempt.glob("*.log"))
    assert [log.name.partition("-")[0] for log in logs] == ["train", "train"]
    assert all("ValueError: the quantity is negative" in log.read_text() for log in logs)


def test_hang_is_ended_with_the_stacks_of_every_rank_in_the_logs(tmp_path):
    profile = site(processes=2, hang_timeout_s=3, max_restarts=0)
    state = wait_for_end(submit_program(tmp_path, "hangs", profile))
    assert (state.state, state.exit_code) == ("FAILED", "70:0")
    attempt = list_attempts(tmp_path)[-1]
    text = "".join(log.read_text() for log in sorted(attempt.glob("*.log")))
    # Ranks 0, 2 and 3 wait, rank 1 is the one they wait for.
    assert text.count("in waits_for_a_neighbour_that_never_comes") == 3
    assert text.count("in is_the_neighbour") == 1
    assert last_exit(tmp_path).cause is Cause.HUNG


def test_unfit_node_is_named_and_the_job_is_requeued_without_it(tmp_path, cluster):
    # One node does not see the folder of the run: something else is mounted there.
    cluster.command("exec", "node2", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
    try:
        job = submit_program(tmp_path, "meets", site(nodes=2, directives=["--nodelist=node[1-2]"]))
        wait_for(lambda: slurm.job_state(job).restarts == 1, "the requeue", limit_s=STARTED_S)
    finally:
        cluster.command("exec", "node2", "umount", str(tmp_path))

    def is_without_the_node():
        return "ExcNodeList=node2 " in slurm_output("scontrol", "-o", "show", "job", job)

    wait_for(is_without_the_node, "the node to be excluded", limit_s=STARTED_S)
    first = read_attempt_exit(list_attempts(tmp_path)[0])
    assert (first.cause, first.node, first.is_requeued) == (Cause.UNFIT, "node2", True)
    assert "preflight: node2 left no report" in (tmp_path / "job" / f"{job}.log").read_text()
    # This job insisted on that node; let go of it and the job runs.
    slurm_output("scontrol", "update", f"JobId={job}", "ReqNodeList=")
    assert wait_for_end(job).state == "COMPLETED"


def test_node_with_a_slow_network_is_named_and_excluded(tmp_path, networks):
    limits = {"wait_s": 60, "all_reduce_mib": 1, "min_all_reduce_gb_per_s": 0.02}
    networks.slow_network("node2", "20mbit")  # 0.0025 GB/s
    try:
        job = submit_program(tmp_path, "meets", site(nodes=3, preflight=limits))
        wait_for(
            lambda: "ExcNodeList=node2 " in slurm_output("scontrol", "-o", "show", "job", job),
            "the node to be excluded",
            limit_s=STARTED_S,
        )
    finally:
        queue.cancel(tmp_path)
        networks.join_network("node2")
    ended = read_attempt_exit(list_attempts(tmp_path)[0])
    assert (ended.cause, ended.node, ended.is_requeued) == (Cause.UNFIT, "node2", True)
    log = (tmp_path / "job" / f"{job}.log").read_text()
    slow = r"preflight: node2 exchanges no tensors as it should: node. with node.: 0\.00 GB/s"
    assert len(re.findall(slow, log)) == 2  # with either neighbour
    assert "preflight: all-reduce between neighbours: 0.00 GB/s at least (node" in log


def test_cancelled_job_stays_cancelled(tmp_path):
    job = submit_program(tmp_path, "waits", site())
    wait_for((tmp_path / "waiting").exists, "the ranks to start", limit_s=STARTED_S)
    assert queue.cancel(tmp_path) == [job]
    state = wait_for_end(job)
    assert (state.state, state.restarts) == ("CANCELLED", 0)
    assert [attempt.name for attempt in list_attempts(tmp_path)] == [f"{job}-0"]


def test_job_cancelled_while_its_nodes_are_checked_stays_cancelled(tmp_path):
    job = submit_program(tmp_path, "waits", site())
    wait_for(lambda: list_attempts(tmp_path), "the attempt to begin", limit_s=STARTED_S)
    queue.cancel(tmp_path)
    state = wait_for_end(job)
    assert (state.state, state.restarts) == ("CANCELLED", 0)


def test_preempted_job_stops_is_requeued_and_starts_again(tmp_path):
    low, high = tmp_path / "low", tmp_path / "high"
    low.mkdir()
    high.mkdir()
    whole = {"gpus": 0, "processes": 1, "cpus": 2, "memory": None, "exclusive": True}
    job = submit_program(low, "waits", site(nodes=3, node=whole))
    wait_for((low / "waiting").exists, "the ranks to start", limit_s=STARTED_S)
    urgent = submit_program(high, "fails", site(nodes=3, node=whole, partition="high"))
    wait_for_end(urgent)
    wait_for(lambda: len(list_attempts(low)) == 2, "the second attempt", limit_s=STARTED_S)
    assert read_attempt_exit(list_attempts(low)[0]).cause is Cause.STOPPED
    assert slurm.job_state(job).restarts == 1
    queue.cancel(low)
    assert wait_for_end(job).state == "CANCELLED"


def test_run_with_a_job_in_the_queue_takes_no_second_one(tmp_path):
    submit_program(tmp_path, "waits", site(nodes=1))
    with pytest.raises(ValueError, match=r"job \d+ of .* already; `chain` queues jobs behind it"):
        queue.submit(tmp_path)
    queue.cancel(tmp_path)


def test_ten_jobs_on_the_same_nodes_meet_at_ten_ports(tmp_path):
    bases = [tmp_path / str(index) for index in range(10)]
    for base in bases:
        base.mkdir()
    jobs = [submit_program(base, "meets", site()) for base in bases]
    states = [wait_for_end(job, limit_s=240).state for job in jobs]
    assert states == ["COMPLETED"] * 10
    assert [(base / "heard").read_text() for base in bases] == jobs
    ports = {json.loads(next(base.glob("*/meeting-*")).read_text())["port"] for base in bases}
    assert len(ports) == 10


@pytest.mark.parametrize("script", PLAIN_SCRIPTS, ids=lambda path: path.stem)
def test_slurm_takes_the_plain_scripts_as_they_are(script):
    command = ["sbatch", "--test-only", "--partition=big", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "to start at" in done.stderr, done.stderr
    (nodes,) = re.findall(r"^#SBATCH --nodes=(\d+)", script.read_text(), re.MULTILINE)
    many = subprocess.run(
        [*command[:-1], f"--nodes={int(nodes) + 64}", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert many.returncode != 0
    assert "configuration is not available" in many.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"partition": "big"}, None, id="64-nodes"),
        pytest.param(
            {"partition": "big", "nodes": 65}, "configuration is not available", id="65-nodes"
        ),
        pytest.param({"partition": "gpus"}, "invalid partition", id="no-such-partition"),
        pytest.param({"directives": ["--switchez=1"]}, "unrecognized option", id="no-such-option"),
    ],
)
def test_slurm_is_asked_whether_a_job_can_ever_run(tmp_path, changes, message):
    profile = site(**{"nodes": 64, "time": "2-00:00:00", **changes})
    job = training_job(tmp_path / "run", profile, rollout__prompts_per_step=64 * 65)
    script = write_job(job, profile, command=("test",), workdir=tmp_path)
    if message is None:
        assert "to start at" in slurm.test_only(script)
    else:
        with pytest.raises(RuntimeError, match=message):
            slurm.test_only(script)
    assert queue.submitted_jobs(job.base) == []
