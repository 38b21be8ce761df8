"""megatron-core's checkpoint writer: where its result queue lives."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.managers import SyncManager
from typing import Any

from megatron_longrlvr.model.cpu.patches import replace
from megatron_longrlvr.parallel.children import die_with


def patch_megatron_checkpoint() -> None:
    """Serve the writer's results from a forked process instead of a spawned one."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    replace(
        filesystem_async,
        "_get_write_results_queue",
        _ResultsQueue(),
        reason="a spawned manager imports the whole program anew: seconds on the first save",
    )


class _ResultsQueue:
    """Makes the manager and its queue at the first call, then returns the same queue."""

    def __init__(self) -> None:
        self._manager: SyncManager | None = None
        self._queue: Any = None

    def __call__(self, *_args: object) -> Any:
        if self._manager is None:
            self._manager = SyncManager(ctx=multiprocessing.get_context("fork"))
            self._manager.start(die_with, (os.getpid(),))
            self._queue = self._manager.Queue()
        return self._queue
