"""Questions and documents of SQuAD- and HotpotQA-format files.

    SQuAD     {data: [{paragraphs: [{context, qas: [{question, answers: [{text}],
              is_impossible?}]}]}]}
    HotpotQA  [{question, answer, context: [[title, [sentence]]], supporting_facts?: [[title, n]]}]

Documents are told apart by their text: one that several questions share is there once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.benchmarks.files import (
    is_encodable,
    iter_records,
    load_json,
    text_field,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QaItem:
    """A question with the documents that belong to it, as places in the pool."""

    place: str
    question: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    """Documents that every prompt holds."""

    evidence: frozenset[int]
    """Those of ``own`` that the answer rests on."""

    related: tuple[int, ...]
    """Documents that fill a prompt before any other: the rest of the article."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QaPool:
    """Everything that a file holds."""

    documents: tuple[str, ...]
    items: tuple[QaItem, ...]
    """Answerable questions in file order."""


def read_squad(path: Path) -> QaPool:
    """Read a file in SQuAD's format, version 1.1 or 2.0.

    Raises:
        DataError: Names file, article, paragraph and question.
    """
    content = load_json(path)
    numbers: dict[str, int] = {}
    items: list[QaItem] = []
    for article, entry in enumerate(_field(content, "data", str(path))):
        place = f"{path}: data[{article}]"
        paragraphs = _field(entry, "paragraphs", place)
        documents = [
            _number(text_field(paragraph, "context", place=f"{place}.paragraphs[{n}]"), numbers)
            for n, paragraph in enumerate(paragraphs)
        ]
        for n, (paragraph, own) in enumerate(zip(paragraphs, documents, strict=True)):
            related = tuple(document for document in dict.fromkeys(documents) if document != own)
            items.extend(_squad_items(paragraph, own, related, f"{place}.paragraphs[{n}]"))
    return _pool(path, numbers, items)


def read_hotpot(path: Path) -> QaPool:
    """Read a file in HotpotQA's format.

    Raises:
        DataError: Names file and record.
    """
    numbers: dict[str, int] = {}
    items: list[QaItem] = []
    for place, record in iter_records(path):
        titles: dict[str, list[int]] = {}
        for entry in _field(record, "context", place):
            title, sentences = _titled(entry, place)
            document = _number(f"{title}\n{''.join(sentences)}", numbers)
            titles.setdefault(title, []).append(document)
        if not titles:
            raise DataError(f"{place}: context holds no document")
        items.append(
            QaItem(
                place=place,
                question=text_field(record, "question", place=place),
                answers=(text_field(record, "answer", place=place),),
                own=tuple(dict.fromkeys(chain.from_iterable(titles.values()))),
                evidence=frozenset(_supporting(record, titles, place)),
                related=(),
            )
        )
    return _pool(path, numbers, items)


def _squad_items(
    paragraph: Mapping[str, Any], own: int, related: tuple[int, ...], place: str
) -> Iterator[QaItem]:
    for number, asked in enumerate(_field(paragraph, "qas", place)):
        here = f"{place}.qas[{number}]"
        answers = _field(asked, "answers", here)
        if asked.get("is_impossible") or not answers:
            continue
        if not all(isinstance(answer, dict) for answer in answers):
            raise DataError(f"{here}: answers must be a list of mappings")
        yield QaItem(
            place=here,
            question=text_field(asked, "question", place=here),
            answers=tuple(text_field(answer, "text", place=here) for answer in answers),
            own=(own,),
            evidence=frozenset({own}),
            related=related,
        )


def _field(record: object, name: str, place: str) -> list[Any]:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, list):
        raise DataError(f"{place}: {name} must be a list, got {type(value).__name__}")
    return value


def _supporting(
    record: Mapping[str, Any], titles: Mapping[str, Sequence[int]], place: str
) -> Iterator[int]:
    """Documents that the annotators rested the answer on; none where the file does not say.

    Which of several documents of one title they meant is not told, so all of them count.
    """
    if record.get("supporting_facts") is None:
        return
    for fact in _field(record, "supporting_facts", place):
        if not isinstance(fact, list) or not fact or not isinstance(fact[0], str):
            raise DataError(f"{place}: supporting_facts must hold [title, number] pairs")
        if fact[0] in titles:
            yield from titles[fact[0]]


def _titled(entry: object, place: str) -> tuple[str, list[str]]:
    if isinstance(entry, list) and len(entry) == 2:
        title, sentences = entry
        is_text = isinstance(title, str) and isinstance(sentences, list)
        if is_text and all(
            isinstance(one, str) and is_encodable(one) for one in [title, *sentences]
        ):
            return title, sentences
    raise DataError(f"{place}: context must hold [title, [sentence, ...]] pairs")


def _number(text: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(text, len(numbers))


def _pool(path: Path, numbers: dict[str, int], items: list[QaItem]) -> QaPool:
    if not items:
        raise DataError(f"{path}: holds no answerable question")
    return QaPool(documents=tuple(numbers), items=tuple(items))
