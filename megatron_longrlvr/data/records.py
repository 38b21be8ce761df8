"""One dataset record: two schemas in, one checked form out.

verl's schema, as in the released training data (further fields are ignored):

    prompt        chat messages; the last user message holds document and question
    data_source   name of the data set
    reward_model  {ground_truth: text or list of texts}
    extra_info    {ref_chunks: list of ids, question: text, optional; index: text or number,
                   optional}

The plain schema:

    id            text, optional
    chunks        list of texts
    question      text
    answer        text or list of texts
    evidence      list of chunk ids

What an annotator wrote wrong is refused here, with file and place, not in the reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from megatron_longrlvr.data.prompt_format import parse_prompt, render_prompt
from megatron_longrlvr.errors import DataError

FIELDS = frozenset(
    {"prompt", "data_source", "reward_model", "extra_info"}
    | {"id", "chunks", "question", "answer", "evidence"}
)
"""Everything that either schema reads at the top level."""

_Kind = TypeVar("_Kind", str, list[Any], dict[Any, Any])
_WORD_BY_KIND: dict[type, str] = {str: "a text", list: "a list", dict: "a mapping"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """One checked question with its document, not yet tokenised."""

    place: str
    """File and line or row, for messages."""

    prompt_id: str
    """The record's own id (the plain schema's as it is, verl's index after the file's stem), else
    file stem and line or row. Not checked for uniqueness."""

    messages: tuple[ChatMessage, ...]
    """What the policy is to read."""

    chunks: tuple[str, ...]
    question: str
    evidence_chunk_ids: frozenset[int]
    reference_answers: tuple[str, ...]

    @property
    def document_message(self) -> str:
        """The last user message, which holds document and question."""
        return last_user_content(self.messages)


def parse_record(content: object, *, path: Path, number: int) -> RawRecord:
    """Check one decoded JSON object or parquet row.

    Args:
        content: The record; other than a mapping it is refused.
        path: The file it came from.
        number: Its line or row in that file, from 1.

    Raises:
        DataError: Names file, line or row, field and problem.
    """
    place = f"{path}:{number}"
    try:
        fields = _check(content, dict, name="the record")
        # Null counts as absent: a parquet row has a cell for every column.
        is_verl = fields.get("prompt") is not None
        if is_verl == (fields.get("chunks") is not None):
            raise ValueError(
                "expected either 'prompt' (verl's schema) or 'chunks' (plain schema), got "
                f"{sorted(name for name, value in fields.items() if value is not None)}"
            )
        read = _read_verl if is_verl else _read_plain
        return read(fields, place=place, row_id=f"{path.stem}:{number}", stem=path.stem)
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def _read_verl(fields: Mapping[str, Any], *, place: str, row_id: str, stem: str) -> RawRecord:
    messages = _read_messages(fields["prompt"])
    parsed = parse_prompt(last_user_content(messages))
    _read(fields, "data_source", str)
    answers = _read(fields, "reward_model", dict).get("ground_truth")
    extra = _read(fields, "extra_info", dict)
    question = extra.get("question")
    index = extra.get("index")
    if isinstance(index, bool) or not isinstance(index, str | int | None):
        raise ValueError(f"extra_info.index must be a text or a number, got {index!r}")
    return RawRecord(
        place=place,
        prompt_id=row_id if index is None else f"{stem}:{index}",
        messages=messages,
        chunks=_checked_chunks(parsed.chunks),
        question=parsed.question
        if question is None
        else _check_text(question, name="extra_info.question"),
        evidence_chunk_ids=_check_evidence(
            extra.get("ref_chunks"), name="extra_info.ref_chunks", num_chunks=len(parsed.chunks)
        ),
        reference_answers=_check_answers(answers, name="reward_model.ground_truth"),
    )


def _read_plain(fields: Mapping[str, Any], *, place: str, row_id: str, stem: str) -> RawRecord:
    del stem  # An id of the plain schema stands for itself.
    texts = _read(fields, "chunks", list)
    chunks = _checked_chunks(
        [_check(text, str, name=f"chunks[{index}]") for index, text in enumerate(texts)]
    )
    question = _check_text(fields.get("question"), name="question")
    message = ChatMessage(role="user", content=render_prompt(chunks=chunks, question=question))
    own_id = fields.get("id")
    return RawRecord(
        place=place,
        prompt_id=row_id if own_id is None else _check_text(own_id, name="id"),
        messages=(message,),
        chunks=chunks,
        question=question,
        evidence_chunk_ids=_check_evidence(
            fields.get("evidence"), name="evidence", num_chunks=len(chunks)
        ),
        reference_answers=_check_answers(fields.get("answer"), name="answer"),
    )


def _read_messages(value: object) -> tuple[ChatMessage, ...]:
    messages = []
    for index, message in enumerate(_check(value, list, name="prompt")):
        name = f"prompt[{index}]"
        fields = _check(message, dict, name=name)
        messages.append(
            ChatMessage(
                role=_check(fields.get("role"), str, name=f"{name}.role"),
                content=_check(fields.get("content"), str, name=f"{name}.content"),
            )
        )
    return tuple(messages)


def last_user_content(messages: Sequence[ChatMessage]) -> str:
    """What the user said last.

    Raises:
        ValueError: Nobody but system and assistant speaks.
    """
    for message in reversed(messages):
        if message.role == "user":
            return message.content
    raise ValueError("prompt has no message with the role 'user'")


def _checked_chunks(chunks: Sequence[str]) -> tuple[str, ...]:
    if not any(chunk.strip() for chunk in chunks):
        raise ValueError("the document is empty: no chunk holds any text")
    return tuple(chunks)


def _check_evidence(value: object, *, name: str, num_chunks: int) -> frozenset[int]:
    if value is None or value == []:
        raise ValueError(f"{name} is missing: the question has no annotated evidence chunks")
    ids = _check(value, list, name=name)
    for chunk_id in ids:
        if type(chunk_id) is not int:
            raise ValueError(f"{name} must hold whole numbers, got {chunk_id!r}")
        if not 0 <= chunk_id < num_chunks:
            raise ValueError(
                f"{name} names chunk {chunk_id}, but the document has chunks 0 to {num_chunks - 1}"
            )
    unique = frozenset(ids)
    if len(unique) < len(ids):
        raise ValueError(f"{name} names a chunk more than once: {ids}")
    return unique


def _check_answers(value: object, *, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (_check_text(value, name=name),)
    if not value:
        raise ValueError(f"{name} is empty")
    return tuple(_check_text(answer, name=f"{name}[{index}]") for index, answer in enumerate(value))


def _check_text(value: object, *, name: str) -> str:
    text = _check(value, str, name=name)
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def _read(fields: Mapping[str, Any], name: str, kind: type[_Kind]) -> _Kind:
    return _check(fields.get(name), kind, name=name)


def _check(value: object, kind: type[_Kind], *, name: str) -> _Kind:
    if value is None:
        raise ValueError(f"{name} is missing")
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {_WORD_BY_KIND[kind]}, got {type(value).__name__}")
    return value
