"""torchrun that ends with the exit code of the rank that ended it, with 130 if told to stop.

    python -m launch.torchrun --standalone --nproc-per-node 2 -m megatron_longrlvr train tiny_cpu

Takes torchrun's arguments. torchrun itself turns every exit code of a rank but 0 into 1, so that a
wrong setting (2), an absent judge (75) and a failure (1) can no longer be told apart.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

# What a shell adds to the number of the signal that ended a process.
_SIGNALLED = 128
# As `longrlvr train` ends when it was stopped before its last step.
_STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun; returns the exit code of the rank that failed first, 0, or 130 once stopped."""
    # Within the function: the rest of the folder is imported where there is no torch.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run_torchrun

    try:
        run_torchrun(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code: int = failure.exitcode
        print(f"torchrun: rank {rank} ended with exit code {code}", file=sys.stderr)  # noqa: T201
        return code if code > 0 else _SIGNALLED - code
    except SignalException as told:  # the ranks were told as well, and have ended
        print(f"torchrun: stopped by {told.sigval.name}", file=sys.stderr)  # noqa: T201
        return _STOPPED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
