"""One question of a benchmark, before it becomes a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question over one document in one piece, or over several in order."""

    place: str
    """File and record, for messages."""

    prompt_id: str
    """Unique within the benchmark."""

    documents: tuple[str, ...]
    text: str
    """What is asked, options included."""

    references: tuple[str, ...]
    evidence: frozenset[int] | None
    """Places of the evidence among the documents; None where nobody has annotated it."""

    output_fields: Mapping[str, object]
    """What the file of outputs says about the question, in the benchmark's own format."""

    response_field: str
    """Name of the response in that format."""
