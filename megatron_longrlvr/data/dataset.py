"""Read prompts from JSON lines and parquet files.

A bad record ends the run before it starts, with file and line or row; see ``records.py`` for the
two schemas. Prompts above the length limit are refused, left out and counted, or cut on the left;
a prompt whose evidence cannot be read any more is refused even then, unless the recipe says
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from megatron_longrlvr.data.raw_rows import decode_batch, iter_batches
from megatron_longrlvr.data.reachability import Cut, find_chunks, kept_tokens, measure_reach
from megatron_longrlvr.data.records import RawRecord, parse_record
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.stages import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPrompts:
    """The usable prompts of some files, in file order."""

    prompts: tuple[Prompt, ...]
    num_dropped_overlong: int
    """Prompts left out because they exceed the length limit."""

    num_cut: int = 0
    """Prompts that lost their beginning to the length limit."""


def iter_records(paths: Iterable[Path]) -> Iterator[RawRecord]:
    """Read files one after the other, a record at a time.

    Blank lines are passed over and counted as lines.

    Raises:
        DataError: A file is absent, unreadable or of an unknown kind, or a record is bad; names
            the file and, from 1, the line or row.
    """
    for path in paths:
        for batch in iter_batches(path):
            for row in decode_batch(batch):
                if row.problem is not None:
                    raise DataError(f"{path}:{row.number}: {row.problem}")
                yield parse_record(row.content, path=path, number=row.number)


def load_prompts(
    paths: Sequence[Path],
    *,
    tokenizer: Tokenizer,
    max_prompt_tokens: int,
    overlong: Literal["refuse", "drop", "cut"],
    allow_unreachable_evidence: bool = False,
) -> LoadedPrompts:
    """Read and tokenise every prompt of the files.

    Args:
        paths: Files, read in this order.
        tokenizer: Renders the chat and measures the prompt.
        max_prompt_tokens: Upper bound, chat markup included.
        overlong: What a prompt above the bound does: end the run, be left out and counted, or lose
            its first tokens.
        allow_unreachable_evidence: Whether prompts may be used whose evidence is blank or cut off.

    Raises:
        DataError: As `iter_records`; two records share an id, a prompt is too long under
            ``"refuse"``, evidence cannot be read, or no prompt is left.
    """
    place_by_id: dict[str, str] = {}
    prompts: list[Prompt] = []
    num_dropped = num_cut = 0
    for record in iter_records(paths):
        if earlier := place_by_id.get(record.prompt_id):
            raise DataError(
                f"{record.place}: prompt id {record.prompt_id!r} is already taken by {earlier}"
            )
        place_by_id[record.prompt_id] = record.place
        prompt = _tokenize(record, tokenizer)
        unreachable = blank_evidence(record)
        if len(prompt.token_ids) > max_prompt_tokens:
            if overlong == "drop":
                num_dropped += 1
                continue
            if overlong == "refuse":
                raise DataError(
                    f"{record.place}: the prompt has {len(prompt.token_ids)} tokens, above "
                    f"data.max_prompt_tokens={max_prompt_tokens}; raise it or set "
                    "data.overlong_prompts=drop or cut"
                )
            prompt, lost = _cut_left(prompt, record, tokenizer, limit=max_prompt_tokens)
            unreachable |= lost
            num_cut += 1
        if unreachable and not allow_unreachable_evidence:
            raise DataError(
                f"{record.place}: evidence {sorted(unreachable)} is blank or cut off at "
                f"data.max_prompt_tokens={max_prompt_tokens}, so citing it cannot be learned; "
                "repair or drop the prompt, or set data.allow_unreachable_evidence=true"
            )
        prompts.append(prompt)
    if not prompts:
        names = ", ".join(map(str, paths))
        raise DataError(f"no prompt to use in {names}: {num_dropped} dropped as too long")
    return LoadedPrompts(prompts=tuple(prompts), num_dropped_overlong=num_dropped, num_cut=num_cut)


def blank_evidence(record: RawRecord) -> set[int]:
    """Evidence chunks without any text."""
    return {
        chunk_id for chunk_id in record.evidence_chunk_ids if not record.chunks[chunk_id].strip()
    }


def render_record(record: RawRecord, tokenizer: Tokenizer) -> str:
    """The prompt as text, chat markup included."""
    return tokenizer.render_messages([asdict(message) for message in record.messages])


def _tokenize(record: RawRecord, tokenizer: Tokenizer) -> Prompt:
    text = render_record(record, tokenizer)
    return Prompt(
        prompt_id=record.prompt_id,
        text=text,
        token_ids=tuple(tokenizer.encode(text)),
        question=record.question,
        chunks=record.chunks,
        evidence_chunk_ids=record.evidence_chunk_ids,
        reference_answers=record.reference_answers,
    )


def _cut_left(
    prompt: Prompt, record: RawRecord, tokenizer: Tokenizer, *, limit: int
) -> tuple[Prompt, set[int]]:
    """The end of a prompt, and the evidence that is not wholly in it."""
    (encoded,) = tokenizer.encode_with_offsets([prompt.text])
    kept = kept_tokens(len(prompt.token_ids), limit=limit, cut=Cut.LEFT)
    spans = find_chunks(prompt.text, content=record.document_message, chunks=record.chunks)
    reaches = measure_reach(encoded, spans, kept=kept, unknown_id=None)
    reachable = {reach.chunk_id for reach in reaches if reach.is_reachable}
    first = kept[0].start
    cut = replace(
        prompt, text=prompt.text[encoded.starts[first] :], token_ids=prompt.token_ids[first:]
    )
    return cut, set(record.evidence_chunk_ids) - reachable
