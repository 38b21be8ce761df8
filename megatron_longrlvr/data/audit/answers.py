"""Where the answer stands: in chunks that are not evidence, or in the question itself.

Both look for the words of a reference answer. Answers that any text may hold by chance, such as
"yes" or a single letter or digit, say nothing and are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_longrlvr.data.audit.evidence_ids import list_chunks
from megatron_longrlvr.data.audit.findings import Check
from megatron_longrlvr.data.audit.words import join_words

_UNTELLING = frozenset({"yes", "no", "true", "false", "none", "not", "the", "and", "or", "of"})
_NGRAM_WORDS = 3
_IN_QUESTION_FRAC = 0.8
"""Share of an answer's n-grams that must stand in the question."""

_MAX_NAMED_CHUNKS = 8


def telling_answers(answers: Sequence[Sequence[str]]) -> list[list[str]]:
    """Those answers, in words, that are worth looking for."""
    return [list(words) for words in answers if _is_telling(words)]


def check_outside_evidence(
    answers: Sequence[Sequence[str]], chunks: Sequence[str], evidence: frozenset[int]
) -> Iterator[tuple[Check, str]]:
    """Yield a finding if an answer stands in a chunk that is not evidence.

    Args:
        answers: From `telling_answers`.
        chunks: Each from `join_words`.
        evidence: Ids of evidence chunks.
    """
    holding = chunks_with_answer(answers, chunks)
    outside = [chunk_id for chunk_id in holding if chunk_id not in evidence]
    if not outside:
        return
    inside = len(holding) - len(outside)
    named = list_chunks(outside[:_MAX_NAMED_CHUNKS])
    more = " and others" if len(outside) > _MAX_NAMED_CHUNKS else ""
    yield (
        Check.ANSWER_OUTSIDE_EVIDENCE,
        f"in {len(outside)} of {len(chunks) - len(evidence)} other chunks ({named}{more}), "
        f"and in {inside} of {len(evidence)} evidence chunks",
    )


def chunks_with_answer(answers: Sequence[Sequence[str]], chunks: Sequence[str]) -> list[int]:
    """Ids of the chunks that hold any of the answers, word for word."""
    wanted = [join_words(words) for words in answers]
    return [
        chunk_id
        for chunk_id, chunk in enumerate(chunks)
        if any(answer in chunk for answer in wanted)
    ]


def check_in_question(
    answers: Sequence[Sequence[str]], question: Sequence[str]
) -> Iterator[tuple[Check, str]]:
    """Yield a finding if most n-grams of an answer stand in the question.

    n is 3, or the length of the answer where that is less.
    """
    for answer in answers:
        size = min(_NGRAM_WORDS, len(answer))
        wanted = _ngrams(answer, size)
        found = wanted & _ngrams(question, size)
        if len(found) >= _IN_QUESTION_FRAC * len(wanted):
            yield (
                Check.ANSWER_IN_QUESTION,
                f"{len(found)} of {len(wanted)} {size}-grams of {' '.join(answer)[:80]!r}",
            )
            return


def _is_telling(words: Sequence[str]) -> bool:
    # One ideograph is a word; one letter or digit may be an option's name or a count.
    longest = max((len(word) if word.isascii() else 2 for word in words), default=0)
    return longest > 1 and not set(words) <= _UNTELLING


def _ngrams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}
