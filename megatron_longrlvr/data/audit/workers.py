"""Spread batches over processes and give the facts back in file order, with few in flight."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

from megatron_longrlvr.data.audit.examine import BatchFacts, ExamineSettings, examine_batch
from megatron_longrlvr.data.raw_rows import RawBatch

Examine = Callable[[Iterable[RawBatch], ExamineSettings], Iterator[BatchFacts]]

_IN_FLIGHT_PER_WORKER = 2


@contextmanager
def open_workers(num_workers: int) -> Iterator[Examine]:
    """Start processes and end them again; with one worker everything happens in this process."""
    if num_workers == 1:
        yield _examine_here
        return
    # A forked child would inherit locks of the tokenizer's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_one_thread) as pool:
        try:
            yield lambda batches, settings: _examine_in(pool, num_workers, batches, settings)
        finally:
            # What is queued need not be computed when somebody has interrupted.
            pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    # The processes share the cores already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _examine_here(batches: Iterable[RawBatch], settings: ExamineSettings) -> Iterator[BatchFacts]:
    for batch in batches:
        yield examine_batch(batch, settings)


def _examine_in(
    pool: ProcessPoolExecutor,
    num_workers: int,
    batches: Iterable[RawBatch],
    settings: ExamineSettings,
) -> Iterator[BatchFacts]:
    waiting: deque[Future[BatchFacts]] = deque()
    for batch in batches:
        waiting.append(pool.submit(examine_batch, batch, settings))
        if len(waiting) >= _IN_FLIGHT_PER_WORKER * num_workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
