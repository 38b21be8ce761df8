"""RULER's question answering tasks: evidence among other documents, up to a length in tokens.

A prompt holds the documents of its question, then, while they fit, related ones (the rest of the
article in SQuAD) and others drawn at random; all of them in random order. The length counts prompt
and response. As in RULER, questions are taken in file order.

Unlike RULER, each question gets as many documents as fit it rather than the same number for all,
and a document never occurs twice: where a small file runs out of documents, the prompt stays
shorter. Every draw depends on the seed, the task, the length and the question's number alone.

Paper: RULER, arXiv:2404.06654.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.config.benchmark import RulerQaConfig
from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.evaluation.benchmarks.qa_pool import QaItem, QaPool, read_hotpot, read_squad
from megatron_longrlvr.evaluation.benchmarks.question import Question

_READERS = {"qa_1": read_squad, "qa_2": read_hotpot}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCounts:
    """How lengths are measured."""

    of_prompt: Callable[[Question], int]
    """Tokens of the whole prompt that a question becomes."""

    of_text: Callable[[str], int]
    """Tokens of a document by itself, which are no more than it adds to a prompt."""


def ruler_questions(
    config: RulerQaConfig,
    *,
    counts: TokenCounts,
    max_response_tokens: int,
    skip: Set[str] = frozenset(),
) -> Iterator[Question]:
    """Build the questions of both tasks at all lengths.

    Args:
        config: Files, lengths and seed.
        counts: Measures prompts.
        max_response_tokens: Kept free of each length.
        skip: Ids of prompts that are not wanted and not built.

    Raises:
        ConfigError: No file is named.
        DataError: A file is wrong, or the documents of a question alone are too long.
    """
    files = {"qa_1": config.squad, "qa_2": config.hotpot}
    pools = {task: _READERS[task](Path(name)) for task, name in files.items() if name is not None}
    if not pools:
        raise ConfigError("source.squad or source.hotpot must name a file")
    for task, pool in pools.items():
        sizes = [counts.of_text(document) for document in pool.documents]
        for length in config.lengths:
            for index, item in enumerate(pool.items[: config.num_questions]):
                if f"{task}/{length}/{index}" in skip:
                    continue
                draw = random.Random(f"{config.seed}/{task}/{length}/{index}")
                draft = _Draft(
                    item=item,
                    pool=pool,
                    order=(*item.own, *_fillers(item, pool, draw)),
                    fields={"index": index, "task": task, "ctx": length},
                    shuffle_key=draw.random(),
                )
                yield _fill(draft, counts, sizes, budget=length - max_response_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    item: QaItem
    pool: QaPool
    order: tuple[int, ...]
    """Documents, the first to go in first."""

    fields: Mapping[str, object]
    shuffle_key: float


def _fillers(item: QaItem, pool: QaPool, draw: random.Random) -> list[int]:
    taken = {*item.own, *item.related}
    others = [number for number in range(len(pool.documents)) if number not in taken]
    return [*draw.sample(item.related, len(item.related)), *draw.sample(others, len(others))]


def _fill(draft: _Draft, counts: TokenCounts, sizes: Sequence[int], *, budget: int) -> Question:
    """The question with as many documents as fit the budget of prompt tokens."""
    at_least = len(draft.item.own)
    count = most = _upper_bound(draft.order, sizes, budget, at_least)
    while (excess := counts.of_prompt(_question(draft, count)) - budget) > 0:
        if count == at_least:
            raise DataError(
                f"{draft.item.place}: the documents of the question alone are above "
                f"{draft.fields['ctx']} tokens, response included"
            )
        # A leap towards the right count; documents cost a little more in a prompt than alone, so
        # it may go one too far, which the loop below makes good.
        dropped = 0
        while count > at_least and (
            dropped == 0 or dropped + sizes[draft.order[count - 1]] < excess
        ):
            count -= 1
            dropped += sizes[draft.order[count]]
    while count < most and counts.of_prompt(_question(draft, count + 1)) <= budget:
        count += 1
    return _question(draft, count)


def _upper_bound(order: Sequence[int], sizes: Sequence[int], budget: int, at_least: int) -> int:
    """Documents that would fit if nothing but they took tokens."""
    total = 0
    for count, number in enumerate(order):
        total += sizes[number]
        if total > budget:
            return max(at_least, count)
    return len(order)


def _question(draft: _Draft, count: int) -> Question:
    chosen = draft.order[:count]
    shown = random.Random(draft.shuffle_key).sample(chosen, count)
    item, fields = draft.item, draft.fields
    evidence = frozenset(place for place, number in enumerate(shown) if number in item.evidence)
    known = {"evidence_chunk_ids": sorted(evidence)} if evidence else {}
    return Question(
        place=item.place,
        prompt_id=f"{fields['task']}/{fields['ctx']}/{fields['index']}",
        documents=tuple(draft.pool.documents[number] for number in shown),
        text=item.question,
        references=item.answers,
        evidence=evidence or None,
        output_fields={**fields, "outputs": list(item.answers), **known},
        response_field="pred",
    )
