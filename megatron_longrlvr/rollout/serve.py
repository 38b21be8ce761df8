"""Entry of a rollout server's process: vLLM's own server, which ends with the run that started it.

python -m megatron_longrlvr.rollout.serve PARENT_PID OPTIONS...
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_SERVER = "vllm.entrypoints.openai.api_server"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Run the server in this process.

    Args:
        arguments: Process id of the run, then the server's options.
    """
    parent, *options = arguments
    # A run that is killed cannot end its servers; Linux tells them.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the run that started this server has ended")
    sys.argv = [_SERVER, *options]
    runpy.run_module(_SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
