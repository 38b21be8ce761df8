"""One batch of rows: every check that needs a single record, and what the others need of it.

This is the part that runs in several processes. It gives back findings and small measures, never
the text of a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

from jinja2 import TemplateError

from megatron_longrlvr.data.audit import answers, evidence_ids, reach
from megatron_longrlvr.data.audit.document_windows import Windows, hash_windows
from megatron_longrlvr.data.audit.findings import Check, Finding
from megatron_longrlvr.data.audit.question_sketch import sketch_questions
from megatron_longrlvr.data.audit.words import join_words, split_words
from megatron_longrlvr.data.dataset import render_record
from megatron_longrlvr.data.min_hash import Sketches
from megatron_longrlvr.data.raw_rows import RawBatch, RawRow, decode_batch
from megatron_longrlvr.data.reachability import (
    ChunkReach,
    Cut,
    find_chunks,
    kept_tokens,
    measure_reach,
)
from megatron_longrlvr.data.records import RawRecord, parse_record
from megatron_longrlvr.data.tokenizer import EncodedText, Tokenizer, load_tokenizer
from megatron_longrlvr.errors import DataError

NUM_DECILES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamineSettings:
    """What the checks of a single record depend on."""

    tokenizer: Path
    max_prompt_tokens: int
    cut: Cut
    has_windows: bool
    """Whether documents are to be compared with other files."""

    is_eval: bool
    """Evaluation records are only read and compared, not examined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptMeasures:
    """Sizes of one prompt."""

    num_tokens: int
    chunk_tokens: tuple[int, ...]
    num_evidence: int
    evidence_deciles: tuple[int, ...]
    """Tenth of the document, from 0, in which each evidence chunk begins."""

    holds_answer: bool | None
    """Whether an evidence chunk holds the answer word for word; None for an untelling answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """By what a record is recognised elsewhere."""

    prompt_id: str
    question: str
    """Words joined by blanks."""

    document_key: bytes
    windows: Windows | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """What is known of one row."""

    place: str
    findings: tuple[Finding, ...]
    identity: Identity | None
    """None where the record could not be parsed."""

    measures: PromptMeasures | None
    """None as well for evaluation records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFacts:
    """What is known of a batch."""

    rows: tuple[RowFacts, ...]
    sketches: Sketches
    """One row for each parsed record, in order."""


def examine_batch(batch: RawBatch, settings: ExamineSettings) -> BatchFacts:
    """Decode and examine some rows."""
    parsed = [_parse(row) for row in decode_batch(batch)]
    measured = iter(_examine_prompts([item.record for item in parsed if item.record], settings))
    rows = []
    for item in parsed:
        findings, identity, measures = item.findings, None, None
        if item.record is not None:
            more, identity, measures = next(measured)
            findings = (*findings, *more)
        rows.append(
            RowFacts(place=item.place, findings=findings, identity=identity, measures=measures)
        )
    questions = [row.identity.question for row in rows if row.identity is not None]
    return BatchFacts(rows=tuple(rows), sketches=sketch_questions(questions))


@dataclass(frozen=True, kw_only=True, slots=True)
class _ParsedRow:
    place: str
    record: RawRecord | None
    findings: tuple[Finding, ...]


_Examined = tuple[tuple[Finding, ...], Identity, PromptMeasures | None]


@cache
def _tokenizer_of(path: Path) -> Tokenizer:
    # Once a process: workers are handed settings, not tokenizers.
    return load_tokenizer(path)


def _parse(row: RawRow) -> _ParsedRow:
    place = f"{row.path}:{row.number}"
    if row.problem is not None:
        finding = Finding(check=Check.MALFORMED_RECORD, place=place, message=row.problem)
        return _ParsedRow(place=place, record=None, findings=(finding,))
    ids, content = evidence_ids.take_evidence_ids(row.content)
    problems = list(evidence_ids.check_duplicates(ids or []))
    record = None
    try:
        record = parse_record(content, path=row.path, number=row.number)
    except DataError as error:
        message = str(error).removeprefix(f"{place}: ")
        problems.append((Check.MALFORMED_RECORD, message))
    if record is not None and ids is not None:
        num_chunks = len(record.chunks)
        problems.extend(evidence_ids.check_range(ids, num_chunks))
        record = replace(record, evidence_chunk_ids=frozenset(ids) & frozenset(range(num_chunks)))
    prompt_id = None if record is None else record.prompt_id
    findings = _findings(problems, place=place, prompt_id=prompt_id)
    return _ParsedRow(place=place, record=record, findings=findings)


def _examine_prompts(records: Sequence[RawRecord], settings: ExamineSettings) -> list[_Examined]:
    if settings.is_eval:
        return [((), _identify(record, _chunk_words(record), settings), None) for record in records]
    tokenizer = _tokenizer_of(settings.tokenizer)
    texts: list[str | None] = []
    refusals: dict[int, str] = {}
    for place, record in enumerate(records):
        try:
            texts.append(render_record(record, tokenizer))
        except TemplateError as error:
            texts.append(None)
            refusals[place] = f"the chat template refuses it: {error}"
    encoded = iter(tokenizer.encode_with_offsets([text for text in texts if text is not None]))
    examined: list[_Examined] = []
    for place, (record, text) in enumerate(zip(records, texts, strict=True)):
        words = _chunk_words(record)
        identity = _identify(record, words, settings)
        if text is None:
            problems = [(Check.MALFORMED_RECORD, refusals[place])]
            examined.append((_findings_of(record, problems), identity, None))
            continue
        found, measures = _examine_prompt(record, text, next(encoded), words, settings)
        examined.append((_findings_of(record, found), identity, measures))
    return examined


def _examine_prompt(
    record: RawRecord,
    text: str,
    encoded: EncodedText,
    words: Sequence[Sequence[str]],
    settings: ExamineSettings,
) -> tuple[list[tuple[Check, str]], PromptMeasures]:
    num_tokens, limit = len(encoded.token_ids), settings.max_prompt_tokens
    unknown_id = _tokenizer_of(settings.tokenizer).backend.unk_token_id
    reaches = list(
        measure_reach(
            encoded,
            find_chunks(text, content=record.document_message, chunks=record.chunks),
            kept=kept_tokens(num_tokens, limit=limit, cut=settings.cut),
            unknown_id=unknown_id,
        )
    )
    evidence = record.evidence_chunk_ids
    telling = answers.telling_answers([split_words(text) for text in record.reference_answers])
    joined = [join_words(chunk) for chunk in words]
    problems = [
        *reach.check_length(num_tokens, limit=limit),
        *reach.check_reach(reaches, evidence),
        *answers.check_outside_evidence(telling, joined, evidence),
        *answers.check_in_question(telling, split_words(record.question)),
    ]
    holding = evidence.intersection(answers.chunks_with_answer(telling, joined))
    measures = PromptMeasures(
        num_tokens=num_tokens,
        chunk_tokens=tuple(chunk.num_text_tokens for chunk in reaches),
        num_evidence=len(evidence),
        evidence_deciles=_deciles(reaches, evidence),
        holds_answer=bool(holding) if telling else None,
    )
    return problems, measures


def _deciles(reaches: Sequence[ChunkReach], evidence: frozenset[int]) -> tuple[int, ...]:
    total = max(1, sum(reach.num_text_tokens for reach in reaches))
    before, deciles = 0, []
    for chunk in reaches:
        if chunk.chunk_id in evidence:
            deciles.append(min(NUM_DECILES - 1, NUM_DECILES * before // total))
        before += chunk.num_text_tokens
    return tuple(deciles)


def _chunk_words(record: RawRecord) -> list[list[str]]:
    return [split_words(chunk) for chunk in record.chunks]


def _identify(
    record: RawRecord, words: Sequence[Sequence[str]], settings: ExamineSettings
) -> Identity:
    document = " ".join(chain.from_iterable(words)).encode()
    return Identity(
        prompt_id=record.prompt_id,
        question=" ".join(split_words(record.question)),
        document_key=hashlib.blake2b(document, digest_size=8).digest(),
        windows=hash_windows(document) if settings.has_windows else None,
    )


def _findings_of(record: RawRecord, problems: Sequence[tuple[Check, str]]) -> tuple[Finding, ...]:
    return _findings(problems, place=record.place, prompt_id=record.prompt_id)


def _findings(
    problems: Sequence[tuple[Check, str]], *, place: str, prompt_id: str | None
) -> tuple[Finding, ...]:
    return tuple(
        Finding(check=check, place=place, message=message, prompt_id=prompt_id)
        for check, message in problems
    )
