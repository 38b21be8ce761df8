"""Measurements of single outputs: the score by each rule, parser outcomes, evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from megatron_longrlvr.data.response_format import parse_strict, parse_tolerant
from megatron_longrlvr.data.strict_json import without_repeats
from megatron_longrlvr.errors import DataError
from megatron_longrlvr.evaluation.scoring.formats import OutputFormat, Record
from megatron_longrlvr.evaluation.scoring.lines import LineBlock
from megatron_longrlvr.evaluation.scoring.output import ModelOutput
from megatron_longrlvr.evaluation.scoring.rules import RULES
from megatron_longrlvr.rewards.answer.verification import Ruling
from megatron_longrlvr.rewards.context_reward import match_evidence

# The paper's reward weighs recall twice as much as precision.
EVIDENCE_BETA = 2.0


class EvidenceScores(NamedTuple):
    """How well the chunks that a response cites agree with the evidence."""

    precision: float
    recall: float
    f2: float


# A named tuple rather than a dataclass: hundreds of thousands of them travel between processes,
# and frozen dataclasses with slots are pickled by a function in Python.
class Measurement(NamedTuple):
    """What was found out about one output."""

    cell: str
    item_id: str
    scores: Mapping[str, float]
    """By rule; ``stored`` is there only if the file holds a verdict."""

    undecided: tuple[str, ...]
    """Rules whose verifier could not decide; what they score the output with proves nothing."""

    strict_outcome: str
    tolerant_outcome: str
    evidence: EvidenceScores | None
    """Of the chunks that the tolerant parser finds cited; None where evidence is unknown."""

    defects: tuple[str, ...]
    num_chars: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBlock:
    """Measurements of a block of lines."""

    measurements: tuple[Measurement, ...]
    is_last_line_cut: bool
    """The last line of the file is the beginning of a record; it was left out."""


def measure_block(block: LineBlock, *, path: str, output_format: OutputFormat) -> MeasuredBlock:
    """Measure the outputs of a block of lines.

    Raises:
        DataError: A line is no record of the format; names file and line.
    """
    measurements: list[Measurement] = []
    for number, record in iter_records(block, path=path):
        if record is None:
            return MeasuredBlock(measurements=tuple(measurements), is_last_line_cut=True)
        try:
            output = output_format.read(record, f"{path}:{number}")
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error
        measurements.append(measure(output, rules_of=output_format.name))
    return MeasuredBlock(measurements=tuple(measurements), is_last_line_cut=False)


def measure(output: ModelOutput, *, rules_of: str) -> Measurement:
    """Score one output by the rules of a format."""
    strict, tolerant = parse_strict(output.text), parse_tolerant(output.text)
    verifications = {
        name: apply(output, strict, tolerant) for name, apply in RULES[rules_of].items()
    }
    scores = {} if output.stored is None else {"stored": output.stored}
    scores |= {name: verification.score for name, verification in verifications.items()}
    evidence = None
    if output.evidence_chunk_ids:
        cited = frozenset(tolerant.cited_chunk_ids)
        match = match_evidence(cited, output.evidence_chunk_ids, beta=EVIDENCE_BETA)
        evidence = EvidenceScores(precision=match.precision, recall=match.recall, f2=match.f_beta)
    return Measurement(
        cell=output.cell,
        item_id=output.item_id,
        scores=scores,
        undecided=tuple(
            name
            for name, verification in verifications.items()
            if verification.ruling is Ruling.UNDECIDED
        ),
        strict_outcome=strict.outcome.value,
        tolerant_outcome=tolerant.outcome.value,
        evidence=evidence,
        defects=output.defects,
        num_chars=len(output.text),
    )


def iter_records(block: LineBlock, *, path: str) -> Iterator[tuple[int, Record | None]]:
    """Line number and record of each line that is not blank; None for a cut last line.

    Bytes that are no UTF-8 are replaced: they are a model's, and the rest can be scored.

    Raises:
        DataError: A line is not a JSON object; names file and line.
    """
    lines = block.content.split(b"\n")
    for offset, line in enumerate(lines):
        if not line.strip():
            continue
        number = block.first_line + offset
        try:
            text = line.decode("utf-8", errors="replace")
            record = json.loads(text, object_pairs_hook=without_repeats)
        except (ValueError, RecursionError) as error:
            if block.is_cut and offset == len(lines) - 1:
                yield number, None
                return
            raise DataError(f"{path}:{number}: not a JSON record: {error}") from error
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise DataError(f"{path}:{number}: a record must be a mapping, got {kind}")
        yield number, record
