"""Rollouts for reading: which of the sample files, cut to what a page can hold.

A document stands once, however many responses there are to it. What does not fit is counted, never
silently left out: files that were not read, responses beyond the limit, texts that were cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from megatron_longrlvr.observability.samples import SampleRecord, read_samples
from megatron_longrlvr.reporting.run_record import RunRecord

MAX_ROLLOUTS = 10_000
"""On a page, over all runs."""

MAX_READ_BYTES = 2**30
"""Of sample files; more of them are read in part, evenly over the run."""

MAX_RESPONSE_CHARS = 8000
MAX_CHUNK_CHARS = 1500
MAX_DOCUMENT_CHARS = 12_000_000
"""Of all documents; once used up, further ones show cited chunks and evidence alone."""

CUT = "\n[... {} characters left out ...]\n"

Read = Callable[[Path], Sequence[SampleRecord]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFile:
    """One file of samples."""

    run_index: int
    kind: str
    """``train``, ``heldout`` or ``alarm``."""

    path: Path


@dataclass(kw_only=True, slots=True)
class RolloutTable:
    """What the page shows; fields of a rollout are named by :data:`FIELDS`."""

    prompts: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[list[Any]] = field(default_factory=list)
    num_found: int = 0
    """Samples in the files that were read."""

    files_read: int = 0
    files_found: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"fields": FIELDS, **asdict(self)}


FIELDS = (
    *("run", "kind", "step", "prompt", "sample", "reward", "parts", "cited", "answer", "text"),
    *("tokens", "finish", "version", "parse", "valid", "verdict", "reason", "alarms"),
    "suspicions",
)


def rollout_table(
    runs: Sequence[RunRecord],
    *,
    max_rollouts: int = MAX_ROLLOUTS,
    max_read_bytes: int = MAX_READ_BYTES,
    read: Read = read_samples,
) -> RolloutTable:
    """Choose rollouts evenly over the files of all runs.

    Args:
        runs: Those without samples take no share.
        max_rollouts: Over all runs.
        max_read_bytes: Over all files.
        read: Reads a file; the live page remembers what it has read.

    Raises:
        ValueError: A sample file cannot be read; the message names it.
    """
    found = [file for index, run in enumerate(runs) for file in _files(index, run)]
    chosen = _affordable(found, max_read_bytes)
    table = RolloutTable(files_found=len(found), files_read=len(chosen))
    counts: list[int] = []
    shelf = _Shelf(table)
    quotas = _quotas([_num_lines(file.path) for file in chosen], max_rollouts)
    for file, quota in zip(chosen, quotas, strict=True):
        records = read(file.path)
        counts.append(len(records))
        for record in spread_groups(records, quota):
            table.rollouts.append(_row(file, record, shelf.place(record)))
    table.num_found = sum(counts)
    return table


def spread_groups(records: Sequence[SampleRecord], count: int) -> list[SampleRecord]:
    """About ``count`` records in whole groups of one prompt, evenly over the file, never more."""
    if len(records) <= count:
        return list(records)
    groups = [list(group) for _, group in groupby(records, key=lambda record: record.prompt_id)]
    size = max(map(len, groups))
    num_groups = max(1, count // size)
    picked = [groups[index * len(groups) // num_groups] for index in range(num_groups)]
    return [record for group in picked for record in group][:count]


def _files(index: int, run: RunRecord) -> list[SampleFile]:
    listed = (
        ("train", run.sample_files),
        ("heldout", run.heldout_files),
        ("alarm", run.alarm_files),
    )
    return [
        SampleFile(run_index=index, kind=kind, path=path)
        for kind, paths in listed
        for path in paths
    ]


def _affordable(files: Sequence[SampleFile], max_bytes: int) -> list[SampleFile]:
    """Every file, or every second, third, ... of each kind and run, and always the newest."""
    sizes = {file.path: file.path.stat().st_size for file in files}
    every = 1
    while True:
        chosen = [
            file
            for _, listed in groupby(files, key=lambda file: (file.run_index, file.kind))
            for file in list(listed)[::-1][::every][::-1]
        ]
        if every >= len(files) or sum(sizes[file.path] for file in chosen) <= max_bytes:
            return chosen
        every += 1


def _num_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def _quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Equal shares of ``total``; what a small file leaves over goes to the larger ones."""
    quotas = [0] * len(sizes)
    left, remaining = total, len(sizes)
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        quotas[index] = min(sizes[index], left // remaining)
        left -= quotas[index]
        remaining -= 1
    return quotas


class _Shelf:
    """Keeps each document once."""

    def __init__(self, table: RolloutTable) -> None:
        self._table = table
        self._places: dict[int, int] = {}
        self._chars_left = MAX_DOCUMENT_CHARS

    def place(self, record: SampleRecord) -> int:
        """Index of the record's prompt in the table."""
        key = hash((record.prompt_id, record.question, tuple(record.chunks)))
        if key not in self._places:
            self._places[key] = len(self._table.prompts)
            self._table.prompts.append(
                {
                    "id": record.prompt_id,
                    "question": _cut(record.question, MAX_RESPONSE_CHARS),
                    "reference": list(record.reference_answers),
                    "evidence": list(record.evidence_chunk_ids),
                    "chunks": [None] * len(record.chunks),
                }
            )
            self._fill(record, self._places[key], range(len(record.chunks)))
        else:
            self._fill(record, self._places[key], record.cited_chunk_ids)
        return self._places[key]

    def _fill(self, record: SampleRecord, place: int, wanted: Iterable[int]) -> None:
        chunks = self._table.prompts[place]["chunks"]
        marked = {*record.evidence_chunk_ids, *record.cited_chunk_ids}
        for chunk in wanted:
            if not 0 <= chunk < len(chunks) or chunks[chunk] is not None:
                continue
            text = _cut(record.chunks[chunk], MAX_CHUNK_CHARS)
            if chunk in marked or len(text) <= self._chars_left:
                chunks[chunk] = text
                self._chars_left -= len(text)


def _row(file: SampleFile, record: SampleRecord, prompt: int) -> list[Any]:
    return [
        file.run_index,
        file.kind,
        record.step,
        prompt,
        record.sample_index,
        round(record.reward, 4),
        {name: round(value, 4) for name, value in record.reward_parts.items()},
        list(record.cited_chunk_ids),
        None if record.answer is None else _cut(record.answer, MAX_RESPONSE_CHARS),
        _cut(record.response_text, MAX_RESPONSE_CHARS),
        record.num_response_tokens,
        record.finish_reason,
        record.policy_version,
        record.parse_outcome,
        record.is_valid,
        record.verdict,
        record.verdict_reason,
        list(record.alarms),
        list(record.suspicions),
    ]


def _cut(text: str, limit: int) -> str:
    """Beginning and end of a text that is too long; the middle is counted."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + CUT.format(len(text) - 2 * half) + text[-half:]
