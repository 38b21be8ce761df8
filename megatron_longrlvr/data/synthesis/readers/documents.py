"""Documents of one file: their text, or why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from megatron_longrlvr.data.raw_rows import decode_batch, iter_batches
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.readers.html import html_text
from megatron_longrlvr.data.synthesis.readers.pdf import UnreadablePdf, pdf_text
from megatron_longrlvr.data.synthesis.readers.sources import FileKind, Source
from megatron_longrlvr.data.synthesis.rows import RawDocument
from megatron_longrlvr.errors import DataError

# Rows of parquet read at a time.
_BATCH_ROWS = 16
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_WHOLE_FILES = frozenset(FileKind) - {FileKind.JSON_LINES, FileKind.PARQUET, FileKind.UNKNOWN}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowText:
    """One row of a file with rows."""

    name: str
    outcome: Outcome


def is_one_document(source: Source) -> bool:
    """Whether a file is one document, rather than rows that each are one."""
    return source.kind in _WHOLE_FILES


def read_document(source: Source, data: bytes) -> Outcome:
    """The document that a file's bytes are."""
    name = str(source.path)
    try:
        text = _text_of(source.kind, data)
    except UnicodeDecodeError as error:
        return _drop(name, Reason.UNREADABLE, f"not UTF-8 at byte {error.start}")
    except UnreadablePdf as error:
        return _drop(name, Reason.UNREADABLE, str(error))
    return _keep(name, text, is_code=source.kind is FileKind.CODE)


def iter_row_texts(source: Source, *, text_field: str) -> Iterator[RowText]:
    """The documents of a file with rows, one after the other.

    A row without the field, or with something else than text in it, is dropped by itself; a file
    that breaks off in the middle is dropped from there on.
    """
    reader = _iter_json if source.kind is FileKind.JSON_LINES else _iter_parquet
    try:
        for number, value in reader(source.path, text_field):
            name = f"{source.path}:{number}"
            if isinstance(value, str):
                yield RowText(name=name, outcome=_keep(name, value, is_code=False))
            else:
                problem = value if isinstance(value, _Problem) else _wrong_type(value, text_field)
                yield RowText(name=name, outcome=_drop(name, Reason.UNREADABLE, problem.text))
    except DataError as error:
        name = str(source.path)
        yield RowText(name=name, outcome=_drop(name, Reason.UNREADABLE, str(error)))


def unknown_kind(source: Source) -> Outcome:
    """What becomes of a file that nothing here reads."""
    return _drop(str(source.path), Reason.UNKNOWN_KIND, source.path.suffix)


@dataclass(frozen=True, slots=True)
class _Problem:
    text: str


def _wrong_type(value: object, field: str) -> _Problem:
    if value is None:
        return _Problem(f"no field {field!r}")
    return _Problem(f"{field!r} must be a text, got {type(value).__name__}")


def _text_of(kind: FileKind, data: bytes) -> str:
    if kind is FileKind.PDF:
        return pdf_text(data)
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    if kind is FileKind.HTML:
        return html_text(text)
    if kind is FileKind.MARKDOWN:
        return _COMMENT.sub("", _FRONT_MATTER.sub("", text))
    return text


def _iter_json(path: Path, field: str) -> Iterator[tuple[int, object]]:
    for batch in iter_batches(path):
        for row in decode_batch(batch):
            if row.problem is not None:
                yield row.number, _Problem(row.problem)
            elif not isinstance(row.content, dict):
                yield row.number, _Problem(f"must be a mapping, got {type(row.content).__name__}")
            else:
                yield row.number, row.content.get(field)


def _iter_parquet(path: Path, field: str) -> Iterator[tuple[int, object]]:
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as table:
            if field not in table.schema_arrow.names:
                raise DataError(f"no column {field!r}; read.text_field names the one with the text")
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield number, value
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"unreadable parquet after row {number}: {error}") from error


def _keep(name: str, text: str, *, is_code: bool) -> Outcome:
    if not text.strip():
        return _drop(name, Reason.NO_TEXT, "")
    kind = "code" if is_code else "prose"
    return Outcome(rows=(RawDocument(source=name, kind=kind, text=text),))


def _drop(name: str, reason: Reason, detail: str) -> Outcome:
    return Outcome(dropped=(Dropped(item=name, reason=reason, detail=detail),))
