"""dedup: of equal and nearly equal documents, the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_longrlvr.data.min_hash import Sketches, iter_buckets
from megatron_longrlvr.data.synthesis.cleaning import NUM_PERMUTATIONS
from megatron_longrlvr.data.synthesis.folder import iter_columns
from megatron_longrlvr.data.synthesis.kept import Part
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.rows import CleanDocument, Document
from megatron_longrlvr.data.synthesis.stage import Desk
from megatron_longrlvr.data.synthesis.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class DedupStage:
    """Looks at all documents at once: 600 bytes of each are in memory, its text is not."""

    similarity: float

    name = "dedup"
    record = Document
    inputs = ("clean",)
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        return {"near_duplicate_similarity": self.similarity}

    def count_items(self, workspace: Workspace) -> int:
        return workspace.num_rows("clean")

    def run(self, desk: Desk) -> None:
        columns = list(
            iter_columns(desk.workspace.folder("clean"), ["document_id", "sketch", "source"])
        )
        sketches = np.array(
            [np.frombuffer(row["sketch"], dtype=np.uint32) for row in columns], dtype=np.uint32
        ).reshape(len(columns), NUM_PERMUTATIONS)
        earlier = find_repeats(
            [row["document_id"] for row in columns], sketches, similarity=self.similarity
        )
        num_kept = 0
        for place, document in enumerate(desk.rows("clean", CleanDocument)):
            match = earlier.get(place)
            if match is not None:
                is_equal = columns[match]["document_id"] == document.document_id
                reason = Reason.DUPLICATE if is_equal else Reason.NEAR_DUPLICATE
                detail = f"of {columns[match]['source']}"
                drop = Dropped(item=document.source, reason=reason, detail=detail)
                desk.take(Outcome(dropped=(drop,)))
                continue
            desk.take(Outcome(rows=(_numbered(document, num_kept),)))
            num_kept += 1


def find_repeats(
    document_ids: Sequence[str], sketches: Sketches, *, similarity: float
) -> dict[int, int]:
    """For each document that repeats one that stays, the place of that one.

    Args:
        document_ids: In order.
        sketches: One row a document.
        similarity: Share of equal sketch values from which two documents are the same.
    """
    candidates: dict[int, set[int]] = {}
    if len(document_ids) > 1:
        for bucket in iter_buckets(sketches, similarity=similarity):
            for offset, place in enumerate(bucket.tolist()):
                # Whoever is dropped for the first of a bucket need not be compared with all others.
                candidates.setdefault(place, set()).update(bucket[: min(offset, 8)].tolist())
    first_by_id: dict[str, int] = {}
    repeats: dict[int, int] = {}
    for place, document_id in enumerate(document_ids):
        first = first_by_id.setdefault(document_id, place)
        if first != place:
            repeats[place] = first
            continue
        for other in sorted(candidates.get(place, ())):
            alike = float(np.mean(sketches[place] == sketches[other]))
            if other not in repeats and alike >= similarity:
                repeats[place] = other
                break
    return repeats


def _numbered(document: CleanDocument, index: int) -> Document:
    return Document(
        document_index=index,
        document_id=document.document_id,
        source=document.source,
        kind=document.kind,
        num_tokens=document.num_tokens,
        text=document.text,
    )
