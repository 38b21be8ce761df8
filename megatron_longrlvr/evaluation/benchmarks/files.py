"""Records of benchmark files: JSON, JSON lines or parquet, each with its place."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_longrlvr.data.raw_rows import read_row
from megatron_longrlvr.data.strict_json import without_repeats
from megatron_longrlvr.errors import DataError


def load_json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Decode a JSON file.

    Raises:
        DataError: The file is absent or not JSON; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error


def iter_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place (file and number, from 1) and content of each record.

    Raises:
        DataError: The file is unreadable or empty, or a record is no mapping.
    """
    readers = {".json": _json_rows, ".jsonl": _json_lines, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix)
    if reader is None:
        raise DataError(f"{path} must end in {', '.join(readers)}")
    number = 0
    for number, record in reader(path):
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise DataError(f"{path}:{number}: a record must be a mapping, got {kind}")
        yield f"{path}:{number}", record
    if not number:
        raise DataError(f"{path}: holds no record")


def text_field(record: object, name: str, *, place: str) -> str:
    """A text that must be there and not be empty.

    Raises:
        DataError: Names place and field.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {name} must be a text that is not empty, got {value!r:.60}")
    if not is_encodable(value):
        raise DataError(f"{place}: {name} holds half of a surrogate pair, which is no character")
    return value


def is_encodable(text: str) -> bool:
    """False of a text with half of a surrogate pair: JSON can spell it, no tokenizer takes it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def id_field(record: Mapping[str, Any], name: str, *, place: str) -> str:
    """A text or a whole number that tells records apart.

    Raises:
        DataError: Names place and field.
    """
    value = record.get(name)
    return str(value) if type(value) is int else text_field(record, name, place=place)


def letter_field(record: Mapping[str, Any], name: str, *, place: str) -> str:
    """An option letter, A to J.

    Raises:
        DataError: Names place and field.
    """
    letter = text_field(record, name, place=place).strip()
    if len(letter) != 1 or letter not in "ABCDEFGHIJ":
        raise DataError(f"{place}: {name} must be an option letter, got {letter!r:.60}")
    return letter


def _json_rows(path: Path) -> Iterator[tuple[int, object]]:
    rows = load_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: must hold a list of records, got {type(rows).__name__}")
    yield from enumerate(rows, start=1)


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    try:
        # As bytes, so that a line in another encoding can be named.
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"), object_pairs_hook=without_repeats)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not a JSON record: {error}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: unreadable parquet: {error}") from error
    for offset in range(table.num_rows):
        try:
            yield offset + 1, read_row(table, offset)
        except ValueError as error:
            raise DataError(f"{path}:{offset + 1}: {error}") from error
