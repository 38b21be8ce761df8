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
    method = "spawn" if torch.cuda.is_initialized() else "fork"
    manager = SyncManager(ctx=multiprocessing.get_context(method))
    manager.start(die_with, (os.getpid(),))
    filesystem_async._results_queue = manager.Queue()  # which holds the manager
