"""What must work in an environment before anything is run in it, without a GPU.

    python -m launch.smoke_test torch megatron.core vllm

Imports the named modules, each in a process of its own since some change how others import, and
runs ``longrlvr --version``, the planner and a dry run. Ends with 1 at the first that fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

COMMANDS = (
    ("--version",),
    ("plan", "llama31_8b", "--cluster", "h100:8x1"),
    ("train", "tiny_cpu", "--dry-run"),
)
"""Arguments of ``longrlvr``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every step and say what it gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="must be importable")
    parsed = parser.parse_args(arguments)
    # torch first, as in a run: it brings the NCCL and cuDNN that others link to.
    imports = [
        [sys.executable, "-c", f"import torch, {name} as it; print(getattr(it, '__version__', ''))"]
        for name in parsed.modules
    ]
    commands = [[sys.executable, "-m", "megatron_longrlvr", *command] for command in COMMANDS]
    for command in (*imports, *commands):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        shown = " ".join(command[1:])
        if done.returncode != 0:
            sys.stderr.write(f"failed: {shown}\n{done.stdout}{done.stderr}\n")
            return 1
        lines = done.stdout.strip().splitlines()
        sys.stdout.write(f"ok: {shown}: {lines[-1] if lines else ''}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
