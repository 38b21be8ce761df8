"""Prompt format: instruction, numbered chunks, question; rendering and its inverse.

    instruction

    Document:
    <CHUNK_0>text</CHUNK_0>
    <CHUNK_1>text</CHUNK_1>

    Question: text

Paper: LongRLVR, arXiv:2603.02146; layout of the released training prompts, with an instruction of
our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_INSTRUCTION = """\
Answer the question at the end with the help of the document below. The document is split into \
numbered chunks, each between an opening and a closing tag that carry its number.

First reason step by step about which chunks matter and what follows from them. Then list every \
chunk that the answer rests on, and no other, by number:
<useful_chunks><CHUNK_3> <CHUNK_7></useful_chunks>
Last, give the answer, as briefly as the question allows:
<answer>your answer</answer>
Write each of the two blocks exactly once."""

# The instruction may name chunk tags as an example, so chunks are looked for after this line.
_DOCUMENT_HEAD = re.compile(r"Document:\s*+(?=<CHUNK_\d)")
_CHUNK_OPENING = re.compile(r"\s*+<CHUNK_(\d+)>")
_QUESTION = re.compile(r"\s*+Question:(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedPrompt:
    """What a prompt was rendered from, apart from the instruction."""

    chunks: tuple[str, ...]
    """Exact texts; the index is the chunk id."""

    question: str
    """Without white space around it."""


def render_prompt(
    *, chunks: Sequence[str], question: str, instruction: str = DEFAULT_INSTRUCTION
) -> str:
    """Write a prompt that :func:`parse_prompt` reads back.

    White space around the question is dropped; chunks are written as they are.

    Raises:
        ValueError: The document or the question is empty, or the prompt would not be read back
            because a text holds the tags that mark chunks.
    """
    if not any(chunk.strip() for chunk in chunks):
        raise ValueError("cannot render a prompt over an empty document")
    question = question.strip()
    if not question:
        raise ValueError("cannot render a prompt with an empty question")
    body = "\n".join(
        f"<CHUNK_{chunk_id}>{chunk}</CHUNK_{chunk_id}>" for chunk_id, chunk in enumerate(chunks)
    )
    text = f"{instruction}\n\nDocument:\n{body}\n\nQuestion: {question}"
    if not _is_read_back(text, ParsedPrompt(chunks=tuple(chunks), question=question)):
        raise ValueError(
            "the prompt would not be read back: instruction or document hold the tags that mark "
            "chunks (<CHUNK_0> after 'Document:', or a chunk's own closing tag)"
        )
    return text


def parse_prompt(text: str) -> ParsedPrompt:
    """Recover chunks and question from a rendered prompt.

    The document starts after the first ``Document:`` that a chunk tag follows, or, where there is
    none, with the text itself. Chunk i ends at the first ``</CHUNK_i>``.

    Raises:
        ValueError: There are no chunk tags, their ids are not 0, 1, 2 and so on in order, a chunk
            is never closed, or no question follows the last one.
    """
    head = _DOCUMENT_HEAD.search(text)
    chunks: list[str] = []
    position = head.end() if head else 0
    while opening := _CHUNK_OPENING.match(text, position):
        chunk_id = len(chunks)
        if opening[1] != str(chunk_id):
            raise ValueError(
                f"chunk ids must run from 0 without a gap: expected <CHUNK_{chunk_id}>, "
                f"found <CHUNK_{opening[1]}>"
            )
        closing = f"</CHUNK_{chunk_id}>"
        end = text.find(closing, opening.end())
        if end < 0:
            raise ValueError(f"chunk {chunk_id} is never closed: no {closing}")
        chunks.append(text[opening.end() : end])
        position = end + len(closing)
    if not chunks:
        raise ValueError("no chunk tags: expected 'Document:' and <CHUNK_0>...</CHUNK_0>")
    return ParsedPrompt(chunks=tuple(chunks), question=_read_question(text, position))


def _read_question(text: str, position: int) -> str:
    match = _QUESTION.match(text, position)
    question = match[1].strip() if match else ""
    if not question:
        raise ValueError("no question: expected 'Question:' and a text after the last chunk")
    return question


def _is_read_back(text: str, wanted: ParsedPrompt) -> bool:
    try:
        return parse_prompt(text) == wanted
    except ValueError:
        return False
