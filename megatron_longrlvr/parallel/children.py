"""Forked processes that must not outlive the rank they belong to."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with(parent: int) -> None:
    """Have Linux kill this process when the thread that forked it ends.

    A forked process holds the rank's sockets and may be writing its files: if it outlived a killed
    rank, the peers would wait for a rank that is gone, and the next attempt would find its port
    taken and its files changing.

    Args:
        parent: Process that forked this one.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request was made
        os.kill(os.getpid(), signal.SIGKILL)
