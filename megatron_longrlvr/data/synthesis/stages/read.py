"""read: files to documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.config.synthesis import ReadConfig
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Outcome
from megatron_longrlvr.data.synthesis.readers.documents import (
    is_one_document,
    iter_row_texts,
    read_document,
    unknown_kind,
)
from megatron_longrlvr.data.synthesis.readers.sources import FileKind, Source, list_sources
from megatron_longrlvr.data.synthesis.rows import RawDocument
from megatron_longrlvr.data.synthesis.stage import Desk, Task, run_tasks
from megatron_longrlvr.data.synthesis.workspace import Workspace

# Kinds whose text takes longer to get at than to find again.
_KEPT_KINDS = frozenset({FileKind.PDF, FileKind.HTML})


@dataclass(frozen=True, kw_only=True)
class ReadStage:
    """Reads every file; one that cannot be read is dropped by itself."""

    config: ReadConfig

    name = "read"
    record = RawDocument
    inputs = ()
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        # Size and time of change stand for the content; the documents' hashes are those of content.
        files: Part = [
            [str(source.path), source.path.stat().st_size, source.path.stat().st_mtime_ns]
            for source in self._sources()
        ]
        return {"text_field": self.config.text_field, "files": files}

    def count_items(self, workspace: Workspace) -> int:  # noqa: ARG002 - as the protocol has it
        return len(self._sources())

    def run(self, desk: Desk) -> None:
        for source in self._sources():
            if source.kind is FileKind.UNKNOWN:
                desk.take(unknown_kind(source))
            elif is_one_document(source):
                run_tasks([_task_of(source)], desk, RawDocument)
            else:
                self._read_rows(source, desk)

    def _read_rows(self, source: Source, desk: Desk) -> None:
        """Write row by row; the file counts as one item."""
        rows: Iterator[Outcome] = (
            row.outcome for row in iter_row_texts(source, text_field=self.config.text_field)
        )
        for outcome in rows:
            desk.writer.add(outcome)
        desk.progress.advance(Outcome())

    def _sources(self) -> list[Source]:
        return list_sources(self.config.paths, code_suffixes=self.config.code_suffixes)


def _task_of(source: Source) -> Task:
    data = source.path.read_bytes()
    key = None
    if source.kind in _KEPT_KINDS:
        key = hash_of("read", source.kind, str(source.path), hashlib.sha256(data).hexdigest())
    return Task(name=str(source.path), key=key, work=lambda: read_document(source, data))


def tokenizer_hash(folder: str) -> str:
    """Stands for a tokenizer in a stage's settings; empty where its file is somewhere else."""
    path = Path(folder) / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
