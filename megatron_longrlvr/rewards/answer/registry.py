"""Answer verifiers by the name that a recipe gives them in ``rewards.answer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from megatron_longrlvr.rewards.answer import (
    choice,
    containment,
    date,
    exact,
    item_list,
    normalized,
    number,
    token_f1,
    unordered,
    yes_no,
)
from megatron_longrlvr.rewards.answer.verification import Ruling, Verification

AnswerVerifier = Callable[[str, str], Verification]
"""From answer and reference to a verification. Never raises, whatever the texts."""

VERIFIERS: Mapping[str, AnswerVerifier] = {
    "exact": exact.verify,
    "normalized": normalized.verify,
    "unordered": unordered.verify,
    "choice": choice.verify,
    "number": number.verify,
    "date": date.verify,
    "yes_no": yes_no.verify,
    "list": item_list.verify,
    "token_f1": token_f1.verify,
    "containment": containment.verify,
}


def best_verification(
    verify: AnswerVerifier, answer: str, references: Sequence[str]
) -> Verification:
    """Judge an answer by the reference that suits it best.

    Right by one reference is right; wrong is what is wrong by all of them. The score is the
    highest.

    Raises:
        ValueError: There is no reference; the dataset loader refuses such a question.
    """
    if not references:
        raise ValueError("cannot score an answer of a question without reference answers")
    verifications = [verify(answer, reference) for reference in references]
    rulings = {verification.ruling for verification in verifications}
    best = next(ruling for ruling in _BEST_FIRST if ruling in rulings)
    return Verification(
        ruling=best, score=max(verification.score for verification in verifications)
    )


_BEST_FIRST = (Ruling.RIGHT, Ruling.UNDECIDED, Ruling.WRONG)
