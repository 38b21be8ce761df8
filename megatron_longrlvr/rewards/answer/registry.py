"""Answer verifiers by the name that a recipe gives them in ``rewards.answer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from megatron_longrlvr.rewards.answer import exact, normalized, unordered

AnswerVerifier = Callable[[str, str], float]
"""From answer and reference to a score in [0, 1]."""

VERIFIERS: Mapping[str, AnswerVerifier] = {
    "exact": exact.score,
    "normalized": normalized.score,
    "unordered": unordered.score,
}


def best_score(verify: AnswerVerifier, answer: str, references: Sequence[str]) -> float:
    """Score an answer against the reference that suits it best.

    Raises:
        ValueError: There is no reference; the dataset loader refuses such a question.
    """
    if not references:
        raise ValueError("cannot score an answer of a question without reference answers")
    return max(verify(answer, reference) for reference in references)
