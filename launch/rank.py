"""One rank: ``python -m launch.rank -m MODULE ARGS`` or ``python -m launch.rank SCRIPT ARGS``.

Runs the program as ``python`` would, with two additions. On SIGUSR2 it writes the Python stacks of
all its threads to standard error; the node's agent asks for them before it kills a hung rank. And
it ends with the agent: one that went on would write beside the ranks of the next attempt.
"""

from __future__ import annotations

import faulthandler
import os
import runpy
import signal
import sys

from megatron_longrlvr.parallel.children import die_with

STACKS_SIGNAL = signal.SIGUSR2
AGENT_VARIABLE = "LONGRLVR_AGENT"
"""Holds the process that started the rank."""


def main(arguments: list[str]) -> None:
    """Run a module (``-m NAME``) or a script as ``__main__``."""
    agent = os.environ.pop(AGENT_VARIABLE, None)
    if agent is not None:
        die_with(int(agent))
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
