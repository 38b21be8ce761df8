"""One response of a file of model outputs, whatever format the file has."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOutput:
    """A response with what is needed to score it."""

    cell: str
    """Part of the benchmark that is averaged by itself first, such as ``qa_1/131072``."""

    item_id: str
    """Question within the cell; several samples of a question share it."""

    text: str
    """The response; empty where the file holds none."""

    references: tuple[str, ...]
    """Any one of them counts as right; an option letter where options are asked for."""

    evidence_chunk_ids: frozenset[int] | None = None
    """None where the file names no evidence."""

    stored: float | None = None
    """The file's own verdict on the response, in [0, 1]."""

    defects: tuple[str, ...] = field(default=())
    """What was wrong with the response field: ``no_response`` or ``not_text``."""
