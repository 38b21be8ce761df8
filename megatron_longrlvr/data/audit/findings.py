"""What an audit can find, how bad it is, and one finding."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether training can go on with it."""

    ERROR = "error"
    WARNING = "warning"


class Check(StrEnum):
    """One kind of defect."""

    UNREADABLE_FILE = "unreadable_file"
    MALFORMED_RECORD = "malformed_record"
    REPEATED_PROMPT_ID = "repeated_prompt_id"
    DUPLICATE_EVIDENCE = "duplicate_evidence"
    EVIDENCE_OUT_OF_RANGE = "evidence_out_of_range"
    UNREACHABLE_EVIDENCE = "unreachable_evidence"
    UNKNOWN_EVIDENCE = "unknown_evidence"
    OVERLONG_PROMPT = "overlong_prompt"
    ANSWER_OUTSIDE_EVIDENCE = "answer_outside_evidence"
    ANSWER_IN_QUESTION = "answer_in_question"
    NEAR_DUPLICATE_QUESTION = "near_duplicate_question"
    EVAL_QUESTION = "eval_question"
    EVAL_DOCUMENT = "eval_document"
    EVAL_ITEM = "eval_item"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckInfo:
    """What a check means to a reader."""

    severity: Severity
    title: str
    meaning: str


CHECK_INFO = {
    Check.UNREADABLE_FILE: CheckInfo(
        severity=Severity.ERROR,
        title="Unreadable file",
        meaning="The file cannot be read, at all or from some row on, or holds no record.",
    ),
    Check.MALFORMED_RECORD: CheckInfo(
        severity=Severity.ERROR,
        title="Malformed record",
        meaning="The record fits neither schema; training refuses the file.",
    ),
    Check.REPEATED_PROMPT_ID: CheckInfo(
        severity=Severity.ERROR,
        title="Repeated prompt id",
        meaning="Two records share an id; training refuses the file.",
    ),
    Check.DUPLICATE_EVIDENCE: CheckInfo(
        severity=Severity.ERROR,
        title="Duplicate evidence ids",
        meaning="The annotation names a chunk twice; training refuses the file.",
    ),
    Check.EVIDENCE_OUT_OF_RANGE: CheckInfo(
        severity=Severity.ERROR,
        title="Evidence ids out of range",
        meaning="The annotation names a chunk that the document does not have.",
    ),
    Check.UNREACHABLE_EVIDENCE: CheckInfo(
        severity=Severity.ERROR,
        title="Unreachable evidence",
        meaning="An evidence chunk is blank, not rendered, or does not survive the cut at the "
        "prompt limit with its tags and all of its text.",
    ),
    Check.UNKNOWN_EVIDENCE: CheckInfo(
        severity=Severity.ERROR,
        title="Evidence unknown to the vocabulary",
        meaning="A tag or the whole text of an evidence chunk becomes the unknown token.",
    ),
    Check.OVERLONG_PROMPT: CheckInfo(
        severity=Severity.WARNING,
        title="Prompt above the limit",
        meaning="Training refuses, drops or cuts it, by data.overlong_prompts.",
    ),
    Check.ANSWER_OUTSIDE_EVIDENCE: CheckInfo(
        severity=Severity.WARNING,
        title="Answer outside the evidence",
        meaning="A reference answer stands, word for word, in a chunk that is not annotated: "
        "the evidence may be incomplete, or is not needed.",
    ),
    Check.ANSWER_IN_QUESTION: CheckInfo(
        severity=Severity.WARNING,
        title="Answer in the question",
        meaning="Most n-grams of a reference answer stand in the question, which may be "
        "answerable without the document.",
    ),
    Check.NEAR_DUPLICATE_QUESTION: CheckInfo(
        severity=Severity.WARNING,
        title="Near-duplicate question",
        meaning="An earlier record asks almost the same.",
    ),
    Check.EVAL_QUESTION: CheckInfo(
        severity=Severity.WARNING,
        title="Question of the evaluation data",
        meaning="The evaluation data asks almost the same, about another document.",
    ),
    Check.EVAL_DOCUMENT: CheckInfo(
        severity=Severity.WARNING,
        title="Document of the evaluation data",
        meaning="Most of the document stands in the evaluation data, under another question.",
    ),
    Check.EVAL_ITEM: CheckInfo(
        severity=Severity.ERROR,
        title="Question and document of the evaluation data",
        meaning="What is trained on is what is measured.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One defect of one record."""

    check: Check
    place: str
    """File and line or row; the file alone where all of it is meant."""

    message: str
    """What is wrong here, in half a sentence."""

    prompt_id: str | None = None
    """None where the record could not be read that far."""

    @property
    def severity(self) -> Severity:
        """Of its check."""
        return CHECK_INFO[self.check].severity
