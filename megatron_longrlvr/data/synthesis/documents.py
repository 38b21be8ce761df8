"""Documents together with what later stages say about them, one document at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from megatron_longrlvr.data.synthesis.rows import Chunking, Document
from megatron_longrlvr.data.synthesis.workspace import Workspace


class OfDocument(Protocol):
    """A row that belongs to a document."""

    @property
    def document_index(self) -> int:
        """Ascending through the rows of a stage."""
        ...


_Row = TypeVar("_Row", bound=OfDocument)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentItem(Generic[_Row]):
    """A document with its chunks and the rows of a stage that belong to it."""

    document: Document
    chunks: tuple[str, ...]
    rows: tuple[_Row, ...]
    """At least one."""

    @property
    def document_id(self) -> str:
        return self.document.document_id


def iter_documents(workspace: Workspace) -> Iterator[Document]:
    """The documents of a shard, or all."""
    for document in workspace.rows("dedup", Document):
        if workspace.holds(document.document_index):
            yield document


def iter_document_items(
    workspace: Workspace, stage: str, record: type[_Row]
) -> Iterator[DocumentItem[_Row]]:
    """Documents that have rows in a stage, with those rows; flat in memory."""
    groups = _grouped(workspace.rows(stage, record))
    chunkings = workspace.rows("chunk", Chunking)
    documents = iter_documents(workspace)
    for index, rows in groups:
        chunking = next(one for one in chunkings if one.document_index == index)
        document = next(one for one in documents if one.document_index == index)
        yield DocumentItem(
            document=document, chunks=chunk_texts(document.text, chunking.ends), rows=rows
        )


def chunk_texts(text: str, ends: Sequence[int]) -> tuple[str, ...]:
    """Chunks by where they end; together they are the text."""
    return tuple(text[start:end] for start, end in pairwise((0, *ends)))


def _grouped(rows: Iterator[_Row]) -> Iterator[tuple[int, tuple[_Row, ...]]]:
    group: list[_Row] = []
    for row in rows:
        if group and row.document_index != group[0].document_index:
            yield group[0].document_index, tuple(group)
            group = []
        group.append(row)
    if group:
        yield group[0].document_index, tuple(group)
