"""Measure whole files, in several processes where they are large."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.scoring.formats import OutputFormat, detect_format
from megatron_longrlvr.evaluation.scoring.lines import LineBlock, iter_blocks
from megatron_longrlvr.evaluation.scoring.measure import (
    MeasuredBlock,
    Measurement,
    iter_records,
    measure_block,
)

# Below this many blocks, starting processes costs more than it saves.
_MIN_BLOCKS_TO_SHARE = 3
# Blocks in flight for each process: one at work, one waiting.
_BLOCKS_PER_PROCESS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredFile:
    """Everything that was found out about a file, output by output."""

    path: str
    format_name: str
    measurements: tuple[Measurement, ...]
    is_last_line_cut: bool
    """The last line is the beginning of a record; it was left out."""


def measure_file(
    path: Path, *, output_format: OutputFormat | None = None, num_processes: int | None = None
) -> MeasuredFile:
    """Measure every output of a file.

    Args:
        path: JSON lines; gzip if the name ends in ``.gz``.
        output_format: Detected from the first record if None.
        num_processes: As many as the machine has cores for us if None.

    Raises:
        DataError: The file is unreadable or empty, its format is unknown, or a record does not
            fit the format; names file and line.
    """
    blocks = iter_blocks(path)
    head = list(islice(blocks, _MIN_BLOCKS_TO_SHARE))
    output_format = output_format or _detect(head, path)
    # Threads of numeric libraries do not matter here, so the scheduler's count is the right one.
    num_processes = num_processes or len(os.sched_getaffinity(0))
    everything = chain(head, blocks)
    if num_processes == 1 or len(head) < _MIN_BLOCKS_TO_SHARE:
        measured = [
            measure_block(block, path=str(path), output_format=output_format)
            for block in everything
        ]
    else:
        measured = list(_measure_shared(everything, path, output_format, num_processes))
    measurements = tuple(chain.from_iterable(block.measurements for block in measured))
    if not measurements:
        raise DataError(f"{path}: holds no record")
    return MeasuredFile(
        path=str(path),
        format_name=output_format.name,
        measurements=measurements,
        is_last_line_cut=measured[-1].is_last_line_cut,
    )


def _measure_shared(
    blocks: Iterator[LineBlock], path: Path, output_format: OutputFormat, num_processes: int
) -> Iterator[MeasuredBlock]:
    """Measure blocks in order; only a bounded number of them is in memory."""
    # Not fork: the caller may have threads, of a progress display or a numeric library.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        pending: deque[Future[MeasuredBlock]] = deque()
        for block in blocks:
            pending.append(
                pool.submit(measure_block, block, path=str(path), output_format=output_format)
            )
            if len(pending) > _BLOCKS_PER_PROCESS * num_processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _detect(blocks: list[LineBlock], path: Path) -> OutputFormat:
    for block in blocks:
        for number, record in iter_records(block, path=str(path)):
            if record is None:
                raise DataError(f"{path}: holds no record: line {number} is not a whole one")
            try:
                return detect_format(record)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from error
    raise DataError(f"{path}: holds no record")
