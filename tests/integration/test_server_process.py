"""Rollout servers as processes: what is said when one does not come up, and that none is left.

Promise: a server that ends before it is ready is an error with the end of its log; servers end with
the run that started them, also where it is killed. The processes are real; vLLM, which may not be
installed, is not started.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_longrlvr.rollout.server_process import ServerCommand, ServerProcess, start_servers

ROOT = Path(__file__).parents[2]


def test_a_server_that_ends_at_once_is_an_error_with_its_log(tmp_path):
    bad = ServerCommand(arguments=["--no-such-option"], environment={})
    with pytest.raises(RuntimeError, match=r"ended with status [12] before it was ready") as error:
        start_servers(bad, count=2, logs=tmp_path / "logs", timeout_s=120.0)
    assert f"{tmp_path}/logs/rollout_server_" in str(error.value)
    # Without vLLM its absence, with it the option.
    assert any(word in str(error.value) for word in ("vllm", "no-such-option"))


def test_stopping_ends_the_whole_process_group(tmp_path):
    server = ServerProcess(ServerCommand(arguments=[], environment={}), log=tmp_path / "log")
    server.stop()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)


def test_a_server_whose_run_has_ended_does_not_start():
    entry = [sys.executable, "-m", "megatron_longrlvr.rollout.serve", "1"]
    result = subprocess.run(entry, capture_output=True, text=True, timeout=60, check=False)
    assert "the run that started this server has ended" in result.stderr
    assert result.returncode == 1


def test_servers_end_with_a_run_that_is_killed(tmp_path):
    """The run is another process; its server is a stand-in for vLLM's that hears no signal."""
    stand_in = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )
    log = tmp_path / "log"
    run = (
        "import signal, pathlib\n"
        "from megatron_longrlvr.rollout.server_process import ServerCommand, ServerProcess\n"
        f"server = ServerProcess(ServerCommand(arguments=[], environment={{}}), "
        f"log=pathlib.Path({str(log)!r}))\n"
        "print(server.pid, flush=True)\n"
        "signal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with subprocess.Popen(
        [sys.executable, "-c", run], stdout=subprocess.PIPE, env=environment
    ) as process:
        group = int(process.stdout.readline())
        with log.open() as file:
            wait_for(lambda: file.readline())
        process.kill()
    wait_for(lambda: not is_alive(group))


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition):
    """Return once it holds; it does within seconds, unless what is under test is broken."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)
