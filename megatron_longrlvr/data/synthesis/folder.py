"""The folder of one stage: its rows, what was dropped and why, unusable replies, the manifest.

    rows.parquet        what goes on to the next stage
    dropped.csv         a line for everything that does not, with the reason
    quarantine.jsonl    items whose replies could not be used, with all that the model wrote
    manifest.json       written last: the stage counts as done when it is there

Rows are written in the order of the items, in groups of a fixed number, so the same rows give the
same bytes, whichever way they came to be.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
from pyarrow import parquet

from megatron_longrlvr.data.synthesis.outcome import (
    Attempt,
    Dropped,
    Fault,
    Outcome,
    Quarantined,
    Reason,
)
from megatron_longrlvr.data.synthesis.rows import from_rows, schema_of, to_table
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.files import write_atomically

ROWS = "rows.parquet"
DROPPED = "dropped.csv"
QUARANTINE = "quarantine.jsonl"
MANIFEST = "manifest.json"

# A row of most text holds a document of some hundred kilobytes.
_GROUP_ROWS = 64
# What a spreadsheet would take for a formula.
_FORMULA_STARTS = tuple("=+-@\t\r")

_Record = TypeVar("_Record")
Manifest = Mapping[str, Any]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage; None where it is not done."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    content: Manifest = json.loads(path.read_text(encoding="utf-8"))
    return content


def iter_rows(folder: Path, record: type[_Record]) -> Iterator[_Record]:
    """Read a stage's rows back, a few at a time.

    Raises:
        DataError: The file is absent or unreadable.
    """
    path = folder / ROWS
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as table:
            for group in range(table.num_row_groups):
                yield from from_rows(table.read_row_group(group).to_pylist(), record)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def iter_columns(folder: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Some columns of a stage's rows."""
    with parquet.ParquetFile(folder / ROWS, pre_buffer=False) as table:
        for group in range(table.num_row_groups):
            yield from table.read_row_group(group, columns=columns).to_pylist()


class StageWriter:
    """Writes a stage's folder; nothing counts before :meth:`finish`."""

    def __init__(self, folder: Path, record: type) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # From here on the stage is not done, until it is again.
        (folder / MANIFEST).unlink(missing_ok=True)
        self._folder = folder
        self._record = record
        self._waiting: list[Any] = []
        self._parquet = parquet.ParquetWriter(self._part(ROWS), schema_of(record))
        self._dropped = self._open(DROPPED)
        self._quarantine = self._open(QUARANTINE)
        self._sheet = csv.writer(self._dropped, lineterminator="\n")
        self._sheet.writerow(["item", "reason", "detail"])
        self.counts: Counter[str] = Counter()
        """``items``, ``rows``, and ``dropped/REASON`` and ``quarantined/FAULT`` with a count of
        each."""

    def add(self, outcome: Outcome) -> None:
        """Append what became of the next item."""
        self.counts["items"] += 1
        for row in outcome.rows:
            self.add_row(row)
        for dropped in outcome.dropped:
            self.add_dropped(dropped)
        for quarantined in outcome.quarantined:
            self.add_quarantined(quarantined)

    def add_row(self, row: object) -> None:
        self.counts["rows"] += 1
        self._waiting.append(row)
        if len(self._waiting) == _GROUP_ROWS:
            self._flush()

    def add_dropped(self, dropped: Dropped) -> None:
        self.counts[f"dropped/{dropped.reason}"] += 1
        cells = (dropped.item, dropped.reason.value, dropped.detail)
        self._sheet.writerow([_plain_cell(cell) for cell in cells])

    def add_quarantined(self, quarantined: Quarantined) -> None:
        self.counts[f"quarantined/{quarantined.fault}"] += 1
        self._quarantine.write(json.dumps(dataclasses.asdict(quarantined)) + "\n")

    def add_rest(self, folder: Path) -> None:
        """Append what another folder of the stage holds beside its rows."""
        with (folder / DROPPED).open(encoding="utf-8", newline="") as file:
            for line in list(csv.reader(file))[1:]:
                self._sheet.writerow(line)
        self._quarantine.write((folder / QUARANTINE).read_text(encoding="utf-8"))
        manifest = read_manifest(folder)
        assert manifest is not None, "a finished stage"
        others = {name: count for name, count in manifest["counts"].items() if name != "rows"}
        self.counts.update(others)

    def finish(self, head: Manifest) -> None:
        """Put the files in their places and write the manifest.

        Args:
            head: What the stage was made from; see ``pipeline.py``.
        """
        if self._waiting:
            self._flush()
        self._parquet.close()
        self._dropped.close()
        self._quarantine.close()
        hashes = {}
        for name in (ROWS, DROPPED, QUARANTINE):
            part = self._part(name)
            with part.open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            part.replace(self._folder / name)
        manifest = {**head, "counts": dict(sorted(self.counts.items())), "sha256": hashes}
        write_atomically(self._folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def abandon(self) -> None:
        """Close the files and leave them unfinished."""
        self._parquet.close()
        self._dropped.close()
        self._quarantine.close()
        for name in (ROWS, DROPPED, QUARANTINE):
            self._part(name).unlink(missing_ok=True)

    def _flush(self) -> None:
        self._parquet.write_table(to_table(self._waiting, self._record))
        self._waiting.clear()

    def _part(self, name: str) -> Path:
        return self._folder / f".{name}.part"

    def _open(self, name: str) -> IO[str]:
        return self._part(name).open("w", encoding="utf-8", newline="\n")


def pack(outcome: Outcome, record: type) -> bytes:
    """An outcome as bytes, to be kept."""
    rest = {
        "dropped": [dataclasses.asdict(one) for one in outcome.dropped],
        "quarantined": [dataclasses.asdict(one) for one in outcome.quarantined],
    }
    table = to_table(outcome.rows, record).replace_schema_metadata({"rest": json.dumps(rest)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def unpack(data: bytes, record: type) -> Outcome:
    """The inverse of :func:`pack`."""
    with pa.ipc.open_stream(data) as stream:
        table = stream.read_all()
    rest = json.loads(table.schema.metadata[b"rest"])
    return Outcome(
        rows=tuple(from_rows(table.to_pylist(), record)),
        dropped=tuple(_dropped(one) for one in rest["dropped"]),
        quarantined=tuple(_quarantined(one) for one in rest["quarantined"]),
    )


def _dropped(content: Mapping[str, Any]) -> Dropped:
    return Dropped(**{**content, "reason": Reason(content["reason"])})


def _quarantined(content: Mapping[str, Any]) -> Quarantined:
    attempts = (Attempt(**{**one, "fault": Fault(one["fault"])}) for one in content["attempts"])
    return Quarantined(item=content["item"], attempts=tuple(attempts))


def _plain_cell(text: str) -> str:
    """Text that a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
