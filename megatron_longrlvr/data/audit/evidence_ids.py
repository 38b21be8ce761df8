"""Evidence ids that training refuses: duplicates, and ids the document does not have.

Parsing stops at the first problem of a record. So the ids are taken out before, and checked here:
a record with bad ids is still examined for everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from megatron_longrlvr.data.audit.findings import Check


def take_evidence_ids(content: object) -> tuple[list[int] | None, object]:
    """Separate a record from its evidence ids.

    Returns:
        The ids, and the record with an id that every document has in their place. None, and the
        record as it is, where there is no list of whole numbers: parsing says what is wrong.
    """
    if not isinstance(content, dict):
        return None, content
    if content.get("prompt") is None:
        ids = content.get("evidence")
        return (ids, {**content, "evidence": [0]}) if _is_id_list(ids) else (None, content)
    extra = content.get("extra_info")
    if not isinstance(extra, dict) or not _is_id_list(ids := extra.get("ref_chunks")):
        return None, content
    return ids, {**content, "extra_info": {**extra, "ref_chunks": [0]}}


def check_duplicates(ids: Sequence[int]) -> Iterator[tuple[Check, str]]:
    """Yield a finding's check and message if an id occurs twice."""
    repeated = sorted(chunk_id for chunk_id, count in Counter(ids).items() if count > 1)
    if repeated:
        yield Check.DUPLICATE_EVIDENCE, f"{list_chunks(repeated)} named more than once: {ids}"


def check_range(ids: Sequence[int], num_chunks: int) -> Iterator[tuple[Check, str]]:
    """Yield a finding's check and message if the document lacks an id."""
    outside = sorted(set(ids) - set(range(num_chunks)))
    if outside:
        yield (
            Check.EVIDENCE_OUT_OF_RANGE,
            f"{list_chunks(outside)} named, the document has 0 to {num_chunks - 1}",
        )


def list_chunks(ids: Sequence[int]) -> str:
    """``chunk 3`` or ``chunks 3, 7``."""
    return f"chunk{'' if len(ids) == 1 else 's'} {', '.join(map(str, ids))}"


def _is_id_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)
