"""What is ahead of a synthesis: requests, tokens and cost of each stage, at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow import parquet

from megatron_longrlvr.config.synthesis import ChatModelConfig, SynthesisConfig
from megatron_longrlvr.data.synthesis.folder import iter_columns
from megatron_longrlvr.data.synthesis.readers.documents import is_one_document
from megatron_longrlvr.data.synthesis.readers.sources import FileKind, Source, list_sources
from megatron_longrlvr.data.synthesis.workspace import Workspace

# Instructions and question of a prompt, in round numbers.
_FRAME_TOKENS = 500
# Evidence chunks of a question; the released data's mean is not known.
_EVIDENCE = 4
_COUNT_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEstimate:
    """One stage's requests, if nothing is dropped before it and nothing is kept from before."""

    stage: str
    model: str
    requests: int
    prompt_tokens: int
    reply_tokens: int
    """If every reply were as long as it may be."""

    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """All of it, and what it is reckoned from."""

    num_documents: int
    document_tokens: int
    """Mean."""

    basis: str
    stages: tuple[StageEstimate, ...]


def estimate(config: SynthesisConfig, workspace: Workspace) -> Estimate:
    """Reckon from the furthest stage that is done, or else from the files.

    Raises:
        DataError: A path stands for nothing.
    """
    documents, tokens, basis = _documents(config, workspace)
    clusters = documents * config.cluster.drawn
    if workspace.manifest("cluster") is not None:
        clusters = workspace.num_rows("cluster")
    candidates = clusters * config.generate.candidates_per_cluster
    if workspace.manifest("generate") is not None:
        candidates = workspace.num_rows("generate")
    chosen = documents
    if workspace.manifest("select") is not None:
        chosen = workspace.num_rows("select")
    passages = config.cluster.max_chunks * config.chunk.max_tokens + _FRAME_TOKENS
    stages = [
        _stage(config, "generate", config.generate.model, candidates, passages),
        _stage(config, "score", config.score.model, candidates, passages),
    ]
    if config.difficulty is not None:
        hard = config.difficulty
        asked = chosen * hard.closed_book_attempts
        stages.append(_stage(config, "difficulty, alone", hard.model, asked, _FRAME_TOKENS))
        asked, size = chosen * hard.document_attempts, tokens + _FRAME_TOKENS
        stages.append(_stage(config, "difficulty, document", hard.model, asked, size))
    if config.evidence is not None:
        checks = 1 + _EVIDENCE * config.evidence.leave_one_out + config.evidence.closed_book
        size = _EVIDENCE * config.chunk.max_tokens + _FRAME_TOKENS
        stages.append(_stage(config, "evidence", config.evidence.model, chosen * checks, size))
    return Estimate(
        num_documents=documents, document_tokens=tokens, basis=basis, stages=tuple(stages)
    )


def _stage(
    config: SynthesisConfig, stage: str, model: str, requests: int, prompt_tokens: int
) -> StageEstimate:
    settings: ChatModelConfig = config.models[model]
    cost = requests * prompt_tokens * settings.price_per_million_prompt_tokens
    cost += requests * settings.max_tokens * settings.price_per_million_reply_tokens
    return StageEstimate(
        stage=stage,
        model=model,
        requests=requests,
        prompt_tokens=requests * prompt_tokens,
        reply_tokens=requests * settings.max_tokens,
        cost=cost / 1e6,
    )


def _documents(config: SynthesisConfig, workspace: Workspace) -> tuple[int, int, str]:
    """How many, of how many tokens on average, and where that is known from."""
    if workspace.manifest("dedup") is not None:
        rows = iter_columns(workspace.folder("dedup"), ["document_index", "num_tokens"])
        sizes = [row["num_tokens"] for row in rows if workspace.holds(row["document_index"])]
        return len(sizes), round(sum(sizes) / max(len(sizes), 1)), "documents that are kept"
    sources = list_sources(config.read.paths, code_suffixes=config.read.code_suffixes)
    middle = (config.clean.min_tokens + config.clean.max_tokens) // 2
    return count_documents(sources), middle, "files and rows; lengths are not known yet"


def count_documents(sources: Sequence[Source]) -> int:
    """Files that are a document, and rows of the others, without reading them whole."""
    count = 0
    for source in sources:
        if is_one_document(source):
            count += 1
        elif source.kind is FileKind.PARQUET:
            count += parquet.ParquetFile(source.path).metadata.num_rows
        elif source.kind is FileKind.JSON_LINES:
            count += _count_lines(source.path)
    return count


def _count_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_COUNT_BYTES):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")
