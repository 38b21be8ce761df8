"""Promise, on a real Slurm: a job of trainer and rollout servers, each on nodes of their own.

Servers and trainer are small programs under the job scripts, agents and rules of real ones; what
vLLM itself does is tested elsewhere. One job is flat, one heterogeneous; the others are flat.
"""

import json
import re
from dataclasses import replace

import pytest

from launch import queue
from launch.exit_reason import Cause, read_attempt_exit
from launch.job import ServerGroup
from launch.render import write_job
from launch.requeue import list_attempts
from tests.support.jobs import PROGRAMS, program_job, site
from tests.support.slurm_cluster import wait_for, wait_for_end

pytestmark = pytest.mark.usefixtures("cluster")


def submit(base, deed, *, is_heterogeneous=False, per_node=1, **changes):
    """Queue one node that asks and two nodes that serve."""
    profile = site(nodes=1, server_start_timeout_s=60, **changes)
    servers = ServerGroup(
        nodes=2,
        per_node=per_node,
        is_heterogeneous=is_heterogeneous,
        arguments=(str(PROGRAMS / "serves.py"), str(base), "{port}"),
    )
    job = replace(program_job(base, "asks", profile, deed), servers=servers)
    write_job(job, profile, command=("test",), workdir=base)
    return queue.submit(base)


def answers(base):
    return json.loads((base / "answers.json").read_text())


def last_exit(base):
    return read_attempt_exit(list_attempts(base)[-1])


@pytest.mark.parametrize("is_heterogeneous", [False, True], ids=["flat", "heterogeneous"])
def test_trainer_is_told_of_every_server_and_all_end_together(tmp_path, is_heterogeneous):
    job = submit(tmp_path, "none", is_heterogeneous=is_heterogeneous, per_node=2)
    state = wait_for_end(job)
    log = (tmp_path / "job" / f"{job}.log").read_text()
    assert (state.state, state.exit_code) == ("COMPLETED", "0:0"), log
    before, _ = answers(tmp_path)
    assert len(before) == len(set(before.values())) == 4  # two nodes of two servers
    attempt = list_attempts(tmp_path)[-1]
    logs = sorted(log.name for log in attempt.glob("*.log"))
    assert [name.rpartition("-")[0] for name in logs] == ["serve", "serve", "train"]
    assert len({name.rpartition("-")[2] for name in logs}) == 3
    assert "serving at" in (attempt / logs[0]).read_text()
    assert last_exit(tmp_path).cause is Cause.FINISHED


@pytest.mark.parametrize("deed", ["die", "hang"])
def test_lost_server_comes_back_at_its_address_while_training_goes_on(tmp_path, deed):
    job = submit(tmp_path, deed, server_silence_timeout_s=1)
    assert wait_for_end(job).state == "COMPLETED"
    before, after = answers(tmp_path)
    assert before.keys() == after.keys()
    differing = [url for url in before if before[url] != after[url]]
    assert differing == [min(before)]
    assert len(list_attempts(tmp_path)) == 1


def test_server_that_dies_too_often_ends_the_job(tmp_path):
    (tmp_path / "again-and-again").touch()
    state = wait_for_end(submit(tmp_path, "die", max_server_restarts=1, max_restarts=0))
    assert (state.state, state.exit_code) == ("FAILED", "73:0")
    ended = last_exit(tmp_path)
    assert ended.cause is Cause.SERVER
    assert re.search(r"ended with SIGKILL.*max_server_restarts=1 are used up$", ended.detail)


def test_server_that_never_answers_ends_the_job_before_training(tmp_path):
    (tmp_path / "never-ready").touch()
    state = wait_for_end(submit(tmp_path, "none"))
    assert (state.state, state.restarts, state.exit_code) == ("FAILED", 0, "1:0")
    assert last_exit(tmp_path).detail.endswith("ended with exit code 3 before it was ready")
    assert not list(list_attempts(tmp_path)[-1].glob("train-*"))


def test_job_cancelled_while_it_waits_for_its_servers_stays_cancelled(tmp_path):
    job = submit(tmp_path, "none", name="waits")
    wait_for(lambda: list(tmp_path.glob("*/serve-*.log")), "the servers to start", limit_s=300)
    queue.cancel(tmp_path)
    state = wait_for_end(job)
    assert (state.state, state.restarts) == ("CANCELLED", 0)
