"""`python -m launch local` trains in several processes and starts again what was killed.

Supervision itself is that of cluster jobs, tried in tests/slurm where there is a Slurm; here are
the parts that need none.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.exit_reason import Cause, read_attempt_exit
from launch.local import run_local
from launch.requeue import Limits, list_attempts
from launch.watch import WatchOptions
from megatron_longrlvr.observability.metric_log import read_metric_log
from tests.support.jobs import PROGRAMS, program_job, site

ROOT = Path(__file__).parents[2]


def run_program(base, name, *, max_restarts=0, **watch):
    job = program_job(base, name, site(nodes=1, processes=2))
    limits = Limits(max_restarts=max_restarts, max_stalled=5)
    return run_local(job, watch=WatchOptions(kill_grace_s=2, **watch), limits=limits)


@pytest.mark.parametrize(
    ("program", "exit_code", "cause"),
    [
        pytest.param("fails", 1, Cause.FAILED, id="error"),
        pytest.param("refuses", 2, Cause.SETTING, id="wrong-setting"),
        pytest.param("killed", 74, Cause.KILLED, id="killed"),
        pytest.param("unjudged", 75, Cause.UNJUDGED, id="no-verdicts"),
        pytest.param("unsaved", 74, Cause.KILLED, id="killed-writer"),
    ],
)
def test_end_of_the_ranks_is_recorded_and_is_the_exit_code(tmp_path, program, exit_code, cause):
    assert run_program(tmp_path, program) == exit_code
    (attempt,) = list_attempts(tmp_path)
    assert read_attempt_exit(attempt).cause is cause


@pytest.mark.parametrize(
    ("program", "exit_code"),
    [
        pytest.param("refuses", 2, id="wrong-setting"),
        pytest.param("killed", 128 + signal.SIGKILL, id="killed"),
    ],
)
def test_torchrun_ends_with_the_exit_code_of_the_rank_that_ended_it(tmp_path, program, exit_code):
    arguments = ["--standalone", "--nproc-per-node", "2", str(PROGRAMS / f"{program}.py")]
    command = [sys.executable, "-m", "launch.torchrun", *arguments, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=300)
    assert ended.returncode == exit_code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_that_is_told_to_stop_says_so(tmp_path, number):
    arguments = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    program = [str(PROGRAMS / "names_itself.py"), str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.torchrun", *arguments, *program],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("rank-*"))) == 2)
    process.send_signal(number)
    assert process.stderr.read().endswith(f"torchrun: stopped by {number.name}\n")
    assert process.wait() == 130


def test_killed_rank_is_started_again_up_to_the_cap(tmp_path):
    assert run_program(tmp_path, "killed", max_restarts=1) == 74
    ends = [read_attempt_exit(attempt) for attempt in list_attempts(tmp_path)]
    assert [end.is_requeued for end in ends] == [True, False]


def test_other_ranks_may_finish_what_they_write_and_no_more(tmp_path):
    assert run_program(tmp_path, "finishes") == 74
    assert (tmp_path / "saved").read_text() == "whole"


AGENT = """
import sys
from pathlib import Path
from tests.integration.test_local_launch import run_program
run_program(Path(sys.argv[1]), "names_itself")
"""


def test_ranks_end_with_the_agent_that_was_killed(tmp_path):
    agent = subprocess.Popen([sys.executable, "-c", AGENT, str(tmp_path)], cwd=ROOT)
    wait_until(lambda: len(list(tmp_path.glob("rank-*"))) == 2)
    agent.kill()
    agent.wait()
    ranks = [int(path.read_text()) for path in tmp_path.glob("rank-*")]
    wait_until(lambda: not any(map(is_alive, ranks)))
    assert [is_alive(rank) for rank in ranks] == [False, False]


def wait_until(condition, limit_s=300):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(process):
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_hung_ranks_show_their_stacks_and_are_killed(tmp_path, capfd):
    assert run_program(tmp_path, "hangs", hang_timeout_s=2) == 70
    shown = capfd.readouterr().err
    assert shown.count("in waits_for_a_neighbour_that_never_comes") == 1
    assert shown.count("in is_the_neighbour") == 1


def test_command_trains_and_finds_the_run_finished(tmp_path):
    settings = [
        *(f"run.dir={tmp_path}/run", "trainer.steps=1", "trainer.eval_every=0", "evaluation=null"),
        *("rollout.prompts_per_step=2", "rollout.group_size=2", "algorithm.updates_per_step=1"),
    ]
    command = [sys.executable, "-m", "launch", "local", "tiny_cpu", "--procs", "2", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    assert [r.step for r in read_metric_log(tmp_path / "run" / "metrics.jsonl")] == [1]
    assert len(list_attempts(tmp_path / "run")) == 1
