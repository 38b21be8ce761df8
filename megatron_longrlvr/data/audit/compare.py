"""Checks that need several records: repeated ids, questions asked before, evaluation data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from megatron_longrlvr.data.audit.examine import BatchFacts, Identity, PromptMeasures
from megatron_longrlvr.data.audit.findings import Check, Finding
from megatron_longrlvr.data.audit.question_sketch import Match, match_questions
from megatron_longrlvr.data.min_hash import Sketches

Overlaps = Mapping[int, tuple[int, float]]
"""By place in the training side: place in the evaluation side, and the share of the document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What is kept of each parsed record of the training data, or of the evaluation data."""

    places: list[str] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    sketches: list[Sketches] = field(default_factory=list)

    def take(self, facts: BatchFacts) -> list[tuple[int, Identity, PromptMeasures | None]]:
        """Keep a batch; returns its parsed records with their places on this side."""
        self.sketches.append(facts.sketches)
        taken = []
        for row in facts.rows:
            if row.identity is not None:
                taken.append((len(self.places), row.identity, row.measures))
                self.places.append(row.place)
                self.identities.append(row.identity)
        return taken


def compare_records(train: Side, evaluation: Side, overlaps: Overlaps) -> Iterator[Finding]:
    """Yield what the training records have in common, with each other and with the evaluation."""
    everything = [*evaluation.identities, *train.identities]
    if not everything:
        return
    num_eval = len(evaluation.identities)
    with_eval, with_train = match_questions(
        [identity.question for identity in everything],
        np.concatenate([*evaluation.sketches, *train.sketches]),
        num_eval=num_eval,
    )
    first_by_id: dict[str, int] = {}
    for place, identity in enumerate(train.identities):
        problems = []
        first = first_by_id.setdefault(identity.prompt_id, place)
        if first != place:
            message = f"already taken by {train.places[first]}"
            problems.append((Check.REPEATED_PROMPT_ID, message))
        if match := with_train.get(num_eval + place):
            message = _tell_repeat(train, place, match.earlier - num_eval, match.similarity)
            problems.append((Check.NEAR_DUPLICATE_QUESTION, message))
        question, overlap = with_eval.get(num_eval + place), overlaps.get(place)
        if question or overlap:
            problems.append(_tell_eval(evaluation, question, overlap))
        for check, message in problems:
            yield Finding(
                check=check,
                place=train.places[place],
                message=message,
                prompt_id=identity.prompt_id,
            )


def _tell_repeat(train: Side, place: int, earlier: int, similarity: float) -> str:
    keys = [train.identities[one].document_key for one in (place, earlier)]
    document = "the same document" if keys[0] == keys[1] else "another document"
    return f"{similarity:.0%} like {train.places[earlier]}, on {document}"


def _tell_eval(
    evaluation: Side, question: Match | None, overlap: tuple[int, float] | None
) -> tuple[Check, str]:
    told = []
    if question:
        told.append(
            f"question {question.similarity:.0%} like {evaluation.places[question.earlier]}"
        )
    if overlap:
        told.append(f"{overlap[1]:.0%} of the document in {evaluation.places[overlap[0]]}")
    if question and overlap:
        check = Check.EVAL_ITEM
    else:
        check = Check.EVAL_QUESTION if question else Check.EVAL_DOCUMENT
    return check, "; ".join(told)
