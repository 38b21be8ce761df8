"""Choose a few rollouts to read, and mark their chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from megatron_longrlvr.observability.samples import SampleRecord, read_samples
from megatron_longrlvr.reporting.run_record import RunRecord

NUM_ROLLOUTS = 12


class ChunkMark(StrEnum):
    """What a chunk is to a response."""

    FOUND = "evidence, cited"
    MISSED = "evidence, not cited"
    WRONG = "cited, not evidence"
    NONE = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedChunk:
    """A chunk of the prompt, as the response treated it."""

    chunk_id: int
    text: str
    mark: ChunkMark


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """A sample chosen for reading."""

    run_index: int
    run_label: str
    source: Path
    rank: int
    """By reward within the file, ties by F-beta; 0 is the best."""

    num_ranked: int
    """Valid samples in the file."""

    record: SampleRecord
    chunks: Sequence[MarkedChunk]

    unknown_ids: Sequence[int]
    """Cited ids that no chunk carries."""

    @property
    def standing(self) -> str:
        """``best of 256``, ``rank 86 of 256`` or ``worst of 256``."""
        named = {self.num_ranked - 1: "worst", 0: "best"}
        return f"{named.get(self.rank, f'rank {self.rank + 1}')} of {self.num_ranked}"


def select_rollouts(
    runs: Sequence[RunRecord], *, num_rollouts: int = NUM_ROLLOUTS
) -> list[Rollout]:
    """Choose rollouts evenly: runs, their first and last file, and the range of rewards.

    Args:
        runs: Those without samples take no share.
        num_rollouts: Divided by the number of files; each gives at least its best and its worst.

    Raises:
        ValueError: A sample file cannot be read; the message names it.
    """
    files = [
        (index, path)
        for index, run in enumerate(runs)
        for path in dict.fromkeys([*run.sample_files[:1], *run.sample_files[-1:]])
    ]
    share = max(2, num_rollouts // len(files)) if files else 0
    return [
        rollout
        for index, path in files
        for rollout in _select_from(path, share, run_index=index, run_label=runs[index].label)
    ]


def mark_chunks(record: SampleRecord) -> list[MarkedChunk]:
    """Compare citations with evidence, chunk by chunk, in the order of the document."""
    evidence, cited = set(record.evidence_chunk_ids), set(record.cited_chunk_ids)
    marks = {
        (True, True): ChunkMark.FOUND,
        (True, False): ChunkMark.MISSED,
        (False, True): ChunkMark.WRONG,
        (False, False): ChunkMark.NONE,
    }
    return [
        MarkedChunk(chunk_id=index, text=text, mark=marks[index in evidence, index in cited])
        for index, text in enumerate(record.chunks)
    ]


def _select_from(path: Path, count: int, *, run_index: int, run_label: str) -> list[Rollout]:
    records = read_samples(path)
    # The reward of an invalid sample is unknown, so it has no place among the others.
    ranked = sorted(
        (record for record in records if record.is_valid),
        key=_standing,
    )
    return [
        Rollout(
            run_index=run_index,
            run_label=run_label,
            source=path,
            rank=rank,
            num_ranked=len(ranked),
            record=ranked[rank],
            chunks=mark_chunks(ranked[rank]),
            unknown_ids=_unknown_ids(ranked[rank]),
        )
        for rank in spread_ranks(len(ranked), count)
    ]


def spread_ranks(size: int, count: int) -> list[int]:
    """Ranks from best (0) to worst (``size - 1``), both included, at even distances."""
    if size <= count:
        return list(range(size))
    return [round(index * (size - 1) / (count - 1)) for index in range(count)]


def _standing(record: SampleRecord) -> tuple[float, float, str, int]:
    f_beta = record.reward_parts.get("context_f_beta", 0.0)
    return (-record.reward, -f_beta, record.prompt_id, record.sample_index)


def _unknown_ids(record: SampleRecord) -> list[int]:
    return sorted(
        {chunk_id for chunk_id in record.cited_chunk_ids if not 0 <= chunk_id < len(record.chunks)}
    )
