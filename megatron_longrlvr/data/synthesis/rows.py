"""Records of the stages, and how they lie in parquet.

A record is a flat or nested frozen dataclass; its fields, by their types, are the columns. What a
stage writes is read back as the same records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

_Record = TypeVar("_Record")

_ARROW_BY_TYPE: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDocument:
    """A document as a reader found it."""

    source: str
    """File, and row where it has rows."""

    kind: str
    """``prose`` or ``code``."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanDocument:
    """A document that is long enough, short enough and in a language that is wanted."""

    document_id: str
    """Hash of the text."""

    source: str
    kind: str
    language: str
    """Empty where it was not looked at."""

    num_tokens: int
    sketch: bytes
    """MinHash values, uint32."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A document that the later stages work on."""

    document_index: int
    """Place among the documents that are kept, from 0; shards are dealt by it."""

    document_id: str
    source: str
    kind: str
    num_tokens: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunking:
    """Where a document is cut: chunk i ends before the character ``ends[i]``."""

    document_index: int
    document_id: str
    ends: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """Vectors of a document's chunks, of length 1 or, without anything to go by, 0."""

    document_index: int
    document_id: str
    num_dims: int
    vectors: bytes
    """[num_chunks, num_dims] float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Chunks of a document that speak of the same things."""

    document_index: int
    document_id: str
    cluster_id: int
    """Among the usable clusters of the document, by their first chunk."""

    chunk_ids: tuple[int, ...]
    """Document-wide, ascending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A question with its answer and evidence, as a model wrote it."""

    document_index: int
    document_id: str
    cluster_id: int
    candidate_id: int
    """Among those of the cluster."""

    question: str
    answer: str
    explanation: str
    evidence_chunk_ids: tuple[int, ...]
    """Document-wide, ascending."""

    shown_chunk_ids: tuple[int, ...]
    """The cluster: what the model saw when it wrote this, document-wide."""

    @property
    def name(self) -> str:
        """For people: document, cluster and number."""
        return f"{self.document_id[:12]}/{self.cluster_id}/{self.candidate_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredCandidate:
    """A candidate with its ratings, each from 1 to 10."""

    document_index: int
    candidate: Candidate
    clarity: int
    correctness: int
    evidence: int
    score: float
    """Mean of the three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredQuestion:
    """A selected candidate, and how often a small model was right about it."""

    document_index: int
    scored: ScoredCandidate
    num_closed_book_right: int
    num_closed_book: int
    num_document_right: int
    num_document: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A chat message of a training row."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModel:
    """The reference answer, where verl looks for it."""

    style: str
    ground_truth: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraInfo:
    """Evidence and question, where the reward looks for them, and where the row comes from."""

    index: str
    question: str
    ref_chunks: tuple[int, ...]
    ref_chunks_text: tuple[str, ...]
    explanation: str
    source: str
    document_id: str
    score: float
    closed_book_right_frac: float
    """Of a small model, as the next; 0 where it was not asked."""

    document_right_frac: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """A record in verl's schema, see ``data/records.py``."""

    data_source: str
    prompt: tuple[Message, ...]
    reward_model: RewardModel
    extra_info: ExtraInfo


@cache
def schema_of(record: type) -> pa.Schema:
    """Columns of a record class."""
    return pa.schema([(name, _arrow_type(kind)) for name, kind in _fields(record).items()])


def to_table(rows: Sequence[Any], record: type) -> pa.Table:
    """Records as a table."""
    schema = schema_of(record)
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)


def from_rows(rows: Iterable[dict[str, Any]], record: type[_Record]) -> list[_Record]:
    """Records from what a table holds."""
    return [_build(row, record) for row in rows]


def _build(row: dict[str, Any], record: type) -> Any:  # noqa: ANN401 - an instance of it
    values = {}
    for name, kind in _fields(record).items():
        value = row[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            value = _build(value, kind)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return record(**values)


@cache
def _fields(record: type) -> dict[str, Any]:
    hints = get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def _arrow_type(kind: Any) -> pa.DataType:  # noqa: ANN401 - a type or a generic of one
    if get_origin(kind) is tuple:
        return pa.list_(_arrow_type(get_args(kind)[0]))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in _fields(kind).items()])
    return _ARROW_BY_TYPE[kind]
