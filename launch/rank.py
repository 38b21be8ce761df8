"""One rank: ``python -m launch.rank -m MODULE ARGS`` or ``python -m launch.rank SCRIPT ARGS``.

Runs the program as ``python`` would, with one addition: on SIGUSR2 it writes the Python stacks of
all its threads to standard error. The node's agent asks for them before it kills a hung rank.
"""

from __future__ import annotations

import faulthandler
import runpy
import signal
import sys

STACKS_SIGNAL = signal.SIGUSR2


def main(arguments: list[str]) -> None:
    """Run a module (``-m NAME``) or a script as ``__main__``."""
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
