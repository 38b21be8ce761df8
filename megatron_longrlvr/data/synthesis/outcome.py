"""What a stage makes of one item: rows that go on, and why the rest does not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why something went no further."""

    # read
    UNKNOWN_KIND = "unknown_kind"
    UNREADABLE = "unreadable"
    NO_TEXT = "no_text"
    # clean
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    OTHER_LANGUAGE = "other_language"
    # dedup
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    # chunk
    HOLDS_CHUNK_TAGS = "holds_chunk_tags"
    # cluster
    CLUSTER_TOO_SMALL = "cluster_too_small"
    CLUSTER_TOO_LARGE = "cluster_too_large"
    TOO_FEW_CLUSTERS = "too_few_clusters"
    NOT_DRAWN = "not_drawn"
    # generate
    SKIPPED_BY_MODEL = "skipped_by_model"
    # select
    NOT_BEST_OF_CLUSTER = "not_best_of_cluster"
    NOT_BEST_OF_DOCUMENT = "not_best_of_document"
    BELOW_THRESHOLD = "below_threshold"
    # difficulty
    TOO_EASY_CLOSED_BOOK = "too_easy_closed_book"
    TOO_EASY_WITH_DOCUMENT = "too_easy_with_document"
    TOO_HARD_WITH_DOCUMENT = "too_hard_with_document"
    # evidence
    NOT_ANSWERED_FROM_EVIDENCE = "not_answered_from_evidence"
    EVIDENCE_NOT_NEEDED = "evidence_not_needed"
    ANSWERED_CLOSED_BOOK = "answered_closed_book"
    # export
    NEAR_DUPLICATE_QUESTION = "near_duplicate_question"
    PROMPT_TOO_LONG = "prompt_too_long"


class Fault(StrEnum):
    """What is wrong with a model's reply."""

    WRONG_GRAMMAR = "wrong_grammar"
    """Not the JSON object that was asked for."""

    CUT = "cut"
    """Ended by the limit of tokens."""

    WRONG_CONTENT = "wrong_content"
    """The right form with impossible content: evidence that was not shown, an empty answer."""

    REFUSED = "refused"
    """The server refused the request itself: it is too long, for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Something that was looked at and left out."""

    item: str
    """What it is: a file and row, a document, a cluster, a candidate."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One reply that could not be used."""

    fault: Fault
    detail: str
    raw: str
    """What the model wrote. Untrusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """An item whose replies could not be used, with all of them."""

    item: str
    attempts: tuple[Attempt, ...]
    """At least one, in the order they were asked for."""

    @property
    def fault(self) -> Fault:
        """Of the last attempt."""
        return self.attempts[-1].fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """All that became of one item."""

    rows: tuple[Any, ...] = ()
    """Records of the stage's kind, in order."""

    dropped: tuple[Dropped, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
