"""Which files there are to read, and of which kind each is."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from megatron_longrlvr.errors import DataError


class FileKind(StrEnum):
    """How a file is read."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    CODE = "code"
    JSON_LINES = "json_lines"
    PARQUET = "parquet"
    UNKNOWN = "unknown"


_KIND_BY_SUFFIX = {
    **dict.fromkeys((".txt", ".text", ".rst"), FileKind.TEXT),
    **dict.fromkeys((".md", ".markdown"), FileKind.MARKDOWN),
    **dict.fromkeys((".html", ".htm", ".xhtml"), FileKind.HTML),
    ".pdf": FileKind.PDF,
    ".jsonl": FileKind.JSON_LINES,
    ".parquet": FileKind.PARQUET,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file."""

    path: Path
    kind: FileKind


def list_sources(paths: Sequence[str], *, code_suffixes: Sequence[str]) -> list[Source]:
    """Files that some paths stand for, each once, folders and patterns in order of names.

    Args:
        paths: Files, folders and patterns.
        code_suffixes: Endings of source code.

    Raises:
        DataError: A path stands for nothing.
    """
    found: dict[Path, None] = {}
    for path in paths:
        files = list(_files_of(path))
        if not files:
            raise DataError(f"read.paths: {path} is no file, no folder with files and no pattern")
        found.update(dict.fromkeys(files))
    return [Source(path=path, kind=_kind_of(path, code_suffixes)) for path in found]


def _files_of(path: str) -> Iterator[Path]:
    whole = Path(path)
    if whole.is_file():
        yield whole
    elif whole.is_dir():
        yield from sorted(file for file in whole.rglob("*") if file.is_file())
    else:
        matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
        yield from (match for match in matches if match.is_file())


def _kind_of(path: Path, code_suffixes: Sequence[str]) -> FileKind:
    suffix = path.suffix.lower()
    if suffix in code_suffixes:
        return FileKind.CODE
    return _KIND_BY_SUFFIX.get(suffix, FileKind.UNKNOWN)
