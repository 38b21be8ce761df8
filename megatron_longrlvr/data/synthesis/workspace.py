"""Where the stages of a synthesis lie, whole or as the shards of several machines.

RUN/01-read/ ... RUN/11-export/         each as folder.py describes
RUN/kept/                               results of single items
RUN/shards/3-of-16/04-chunk/ ...        the same, of a shard
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from megatron_longrlvr.data.synthesis.folder import Manifest, iter_rows, read_manifest
from megatron_longrlvr.data.synthesis.kept import KeptResults
from megatron_longrlvr.errors import ConfigError

STAGES = (
    *("read", "clean", "dedup", "chunk", "embed", "cluster", "generate", "score", "select"),
    *("difficulty", "evidence", "export"),
)
"""In order. A stage reads what those before it wrote."""

SHARDED = STAGES[STAGES.index("chunk") : STAGES.index("export")]
"""Stages that look at one document at a time, so that machines can share the documents out."""

_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A part of the documents: those whose place leaves ``index`` when divided by ``count``."""

    index: int
    """From 0."""

    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``I/N``, with I from 0 to N - 1.

        Raises:
            ConfigError: It is no such thing.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 0 <= int(match[1]) < int(match[2]):
            raise ConfigError(f"--shard must read I/N with 0 <= I < N, such as 0/16, got {text!r}")
        return cls(index=int(match[1]), count=int(match[2]))

    def holds(self, document_index: int) -> bool:
        return document_index % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """The folders of a run, seen from one of its shards or from the whole."""

    root: Path
    shard: Shard | None = None

    def folder(self, stage: str) -> Path:
        """Where a stage lies; a shard has its own only of those that are shared out."""
        name = f"{STAGES.index(stage) + 1:02}-{stage}"
        return (self.shard_root if stage in SHARDED else self.root) / name

    @property
    def shard_root(self) -> Path:
        if self.shard is None:
            return self.root
        return self.root / "shards" / f"{self.shard.index}-of-{self.shard.count}"

    def holds(self, document_index: int) -> bool:
        return self.shard is None or self.shard.holds(document_index)

    def manifest(self, stage: str) -> Manifest | None:
        return read_manifest(self.folder(stage))

    def rows(self, stage: str, record: type[_Record]) -> Iterator[_Record]:
        """Rows of a finished stage."""
        return iter_rows(self.folder(stage), record)

    def num_rows(self, stage: str) -> int:
        """Rows of a finished stage, for progress; 0 where it is not finished."""
        manifest = self.manifest(stage)
        return 0 if manifest is None else int(manifest["counts"].get("rows", 0))

    def num_documents(self) -> int:
        """Documents of the shard, or all."""
        count = self.num_rows("dedup")
        if self.shard is None:
            return count
        return len(range(self.shard.index, count, self.shard.count))

    def open_kept(self, stage: str) -> KeptResults:
        folder = self.folder(stage)
        return KeptResults(folder.parent / "kept" / f"{folder.name}.sqlite")
