"""Evidence that the policy cannot read or cite: cut off, blank, or unknown to the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron_longrlvr.data.audit.findings import Check
from megatron_longrlvr.data.reachability import ChunkReach


def check_reach(
    reaches: Sequence[ChunkReach], evidence: frozenset[int]
) -> Iterator[tuple[Check, str]]:
    """Yield at most one finding for what is out of reach and one for what is unknown."""
    marked = [reach for reach in reaches if reach.chunk_id in evidence]
    lost = [reach for reach in marked if not reach.is_reachable]
    if lost:
        told = "; ".join(_tell(reach) for reach in lost)
        yield Check.UNREACHABLE_EVIDENCE, f"{len(lost)} of {len(marked)} evidence chunks: {told}"
    unknown = [reach.chunk_id for reach in marked if reach.is_rendered and not reach.is_known]
    if unknown:
        yield (
            Check.UNKNOWN_EVIDENCE,
            f"chunks {', '.join(map(str, unknown))} become the unknown token, tag or text",
        )


def check_length(num_tokens: int, *, limit: int) -> Iterator[tuple[Check, str]]:
    """Yield a finding for a prompt above the limit."""
    if num_tokens > limit:
        yield Check.OVERLONG_PROMPT, f"{num_tokens} tokens, the limit is {limit}"


def _tell(reach: ChunkReach) -> str:
    name = f"chunk {reach.chunk_id}"
    if not reach.is_rendered:
        return f"{name} is not in the rendered prompt"
    if reach.num_text_tokens == 0:
        return f"{name} is blank"
    tags = "its tags" if reach.has_tags else "no complete pair of tags"
    return f"{name} keeps {reach.num_kept_text_tokens} of {reach.num_text_tokens} tokens and {tags}"
