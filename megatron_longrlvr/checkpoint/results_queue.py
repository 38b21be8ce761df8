"""Where megatron-core's writers leave word of what they wrote."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.managers import SyncManager

import torch

from megatron_longrlvr.model.mcore import filesystem_async
from megatron_longrlvr.parallel.children import die_with


def keep_results_with_rank() -> None:
    """Serve megatron-core's queue of results from a process that ends with this one; once.

    Its own is served by a spawned process, which outlives a killed rank for good and imports the
    whole program anew: seconds in the first save, and hundreds of MB.
    """
    if filesystem_async._results_queue is not None:
        return
    # A fork would hold on to the device's memory.
    is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    method = "spawn" if is_used else "fork"
    manager = SyncManager(ctx=multiprocessing.get_context(method))
    manager.start(die_with, (os.getpid(),))
    filesystem_async._results_queue = manager.Queue()  # which holds the manager
