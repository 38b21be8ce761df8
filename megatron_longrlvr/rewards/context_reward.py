"""Context reward: agreement between the chunks a response cites and the annotated evidence.

Precision P is the share of the citations that is evidence, recall R the share of the evidence
that is cited, and

    F_beta = (1 + beta**2) * P * R / (beta**2 * P + R)

Two rules differ in what a repeated id costs. ``match_evidence`` scores the set of cited chunks.
``match_evidence_as_released`` follows the code published with the paper, which divides by the
number of ids as written; it exists so that results can be compared.

Paper: LongRLVR, arXiv:2603.02146.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceMatch:
    """How well citations agree with the evidence; every field lies in [0, 1]."""

    precision: float
    recall: float
    f_beta: float


def match_evidence(cited: Set[int], evidence: Set[int], *, beta: float) -> EvidenceMatch:
    """Score the set of cited chunks.

    An id that no chunk carries costs precision like any wrong chunk, so inventing ids never pays.

    Args:
        cited: Chunk ids the response named; empty scores 0 throughout.
        evidence: Chunk ids the annotator marked.
        beta: Recall counts ``beta**2`` times as much as precision.

    Raises:
        ValueError: ``evidence`` is empty; the dataset loader refuses such a question.
    """
    return _match(
        num_correct=len(cited & evidence),
        num_cited=len(cited),
        num_evidence=len(evidence),
        beta=beta,
    )


def match_evidence_as_released(
    cited: Sequence[int], evidence: Set[int], *, beta: float
) -> EvidenceMatch:
    """Score the citations by the rule of the paper's published code.

    A right chunk counts once however often it is written, but every written id counts in the
    denominator of precision: ids 3, 3, 3 against evidence {3} have precision 1/3.

    Args:
        cited: Chunk ids as written, with repeats.
        evidence: As for :func:`match_evidence`.
        beta: As for :func:`match_evidence`.

    Raises:
        ValueError: ``evidence`` is empty.
    """
    return _match(
        num_correct=len(evidence & set(cited)),
        num_cited=len(cited),
        num_evidence=len(evidence),
        beta=beta,
    )


def _match(*, num_correct: int, num_cited: int, num_evidence: int, beta: float) -> EvidenceMatch:
    if num_evidence == 0:
        raise ValueError("cannot score citations of a question without annotated evidence chunks")
    if num_correct == 0:
        return EvidenceMatch(precision=0.0, recall=0.0, f_beta=0.0)
    precision = num_correct / num_cited
    recall = num_correct / num_evidence
    f_beta = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
    return EvidenceMatch(precision=precision, recall=recall, f_beta=f_beta)
