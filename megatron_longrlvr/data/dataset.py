"""Read prompts from JSON lines and parquet files.

A bad record ends the run before it starts, with file and line or row; see ``records.py`` for the
two schemas. Prompts above the length limit are refused, or left out and counted; never cut, since
a cut document may lose the evidence that its annotation names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from megatron_longrlvr.data.records import FIELDS, RawRecord, parse_record
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.stages import Prompt

# Rows decoded at a time: at 200 KB of text a row, about 13 MB.
_PARQUET_BATCH_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPrompts:
    """The usable prompts of some files, in file order."""

    prompts: tuple[Prompt, ...]
    num_dropped_overlong: int
    """Prompts left out because they exceed the length limit."""


def iter_records(paths: Iterable[Path]) -> Iterator[RawRecord]:
    """Read files one after the other, a record at a time.

    Blank lines are passed over and counted as lines.

    Raises:
        DataError: A file is absent, unreadable or of an unknown kind, or a record is bad; names
            the file and, from 1, the line or row.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"no data file {path}")
        readers = {".jsonl": _iter_json_lines, ".parquet": _iter_parquet_rows}
        reader = readers.get(path.suffix)
        if reader is None:
            raise DataError(f"{path} must end in {' or '.join(readers)}")
        for number, content in reader(path):
            yield parse_record(content, path=path, number=number)


def load_prompts(
    paths: Sequence[Path],
    *,
    tokenizer: Tokenizer,
    max_prompt_tokens: int,
    overlong: Literal["refuse", "drop"],
) -> LoadedPrompts:
    """Read and tokenise every prompt of the files.

    Args:
        paths: Files, read in this order.
        tokenizer: Renders the chat and measures the prompt.
        max_prompt_tokens: Upper bound, chat markup included.
        overlong: What a prompt above the bound does: end the run, or be left out and counted.

    Raises:
        DataError: As `iter_records`; two records share an id, a prompt is too long under
            ``"refuse"``, or no prompt is left.
    """
    place_by_id: dict[str, str] = {}
    prompts: list[Prompt] = []
    num_dropped = 0
    for record in iter_records(paths):
        if earlier := place_by_id.get(record.prompt_id):
            raise DataError(
                f"{record.place}: prompt id {record.prompt_id!r} is already taken by {earlier}"
            )
        place_by_id[record.prompt_id] = record.place
        prompt = _tokenize(record, tokenizer)
        if len(prompt.token_ids) <= max_prompt_tokens:
            prompts.append(prompt)
        elif overlong == "drop":
            num_dropped += 1
        else:
            raise DataError(
                f"{record.place}: the prompt has {len(prompt.token_ids)} tokens, above "
                f"data.max_prompt_tokens={max_prompt_tokens}; raise it or set "
                "data.overlong_prompts=drop"
            )
    if not prompts:
        names = ", ".join(map(str, paths))
        raise DataError(f"no prompt to use in {names}: {num_dropped} dropped as too long")
    return LoadedPrompts(prompts=tuple(prompts), num_dropped_overlong=num_dropped)


def _tokenize(record: RawRecord, tokenizer: Tokenizer) -> Prompt:
    text = tokenizer.render_messages([asdict(message) for message in record.messages])
    return Prompt(
        prompt_id=record.prompt_id,
        text=text,
        token_ids=tuple(tokenizer.encode(text)),
        question=record.question,
        chunks=record.chunks,
        evidence_chunk_ids=record.evidence_chunk_ids,
        reference_answers=record.reference_answers,
    )


def _iter_json_lines(path: Path) -> Iterator[tuple[int, object]]:
    # Read as bytes, so that a line of broken UTF-8 can be named.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line.decode("utf-8"))
                if b"\\ud" in line.lower():
                    # Half of a surrogate pair is JSON, but no text that could be tokenised.
                    json.dumps(content, ensure_ascii=False).encode("utf-8")
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a JSON record: {error}") from error
            yield number, content


def _iter_parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    # Kept out of the import of this module: JSON lines need no pyarrow.
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            columns = [name for name in table.schema_arrow.names if name in FIELDS]
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=columns):
                for content in batch.to_pylist():
                    number += 1
                    yield number, content
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: unreadable parquet after row {number}: {error}") from error
