"""Keeper of a rollout server: runs vLLM's own server and ends with the run that started it.

    python -m megatron_longrlvr.rollout.serve PARENT_PID OPTIONS...

A run that is killed cannot end its servers, and vLLM's does not hear a signal while it starts. So
Linux tells the keeper, which ends the process group that it leads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType

SERVER = "vllm.entrypoints.openai.api_server"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# For the server to let go of shared memory.
_GRACE_S = 5.0


class _AskedToEnd(Exception):  # noqa: N818 - read as "it was asked to end"
    pass


def main(arguments: list[str]) -> int:
    """Run a server until it ends, or this process is asked to.

    Args:
        arguments: Process id of the run, then the server's options.

    Returns:
        The server's exit code.
    """
    parent, *options = arguments
    signal.signal(signal.SIGTERM, _ask_to_end)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the run that started this server has ended")
    server = subprocess.Popen([sys.executable, "-m", SERVER, *options])
    try:
        return server.wait()
    except _AskedToEnd:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=_GRACE_S)
        assert os.getpgid(0) == os.getpid(), "started as the leader of its group"
        os.killpg(0, signal.SIGKILL)
        raise


def _ask_to_end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _AskedToEnd


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
