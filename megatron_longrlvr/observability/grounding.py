"""How well evidence is found: by how much there is, by where it stands, by length of the prompt.

"Lost in the middle" shows as recall that sinks in the middle tenths of the document; a policy that
cites the beginning whatever the question shows as many citations and little precision there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.stages import ScoredBatch, ScoredSample

_REWARD_PARTS = {
    "precision": "context_precision",
    "recall": "context_recall",
    "f_beta": "context_f_beta",
    "answer": "answer",
}
"""Quantity of a name -> part of the reward."""

_DECILE_QUANTITIES = ("recall", "precision", "cited")


def grounding_tally(batch: ScoredBatch) -> Tally:
    """Count citations and evidence of a batch; over valid samples.

    A response that earned nothing for its citations, because it could not be read, counts as one
    that cites nothing, so that the sums agree with ``reward/context_recall_mean``.
    """
    valid = [scored for scored in batch.scored if scored.is_valid]
    return (
        _citation_tally(valid)
        + _split_tally(
            valid,
            bucket=lambda one: names.evidence_bucket(len(one.sample.prompt.evidence_chunk_ids)),
            bounds=names.EVIDENCE_BOUNDS,
            name=names.grounding_by_evidence,
        )
        + _split_tally(
            valid,
            bucket=lambda one: names.prompt_bucket(len(one.sample.prompt.token_ids)),
            bounds=names.PROMPT_BOUNDS,
            name=names.grounding_by_prompt,
        )
        + _decile_tally(valid)
    )


def measured_means(tally: Tally) -> dict[str, float]:
    """Means by name; what nothing fell into is left out."""
    return {name: tally[name].mean for name in tally.names if tally[name].count}


def chunk_deciles(chunks: Sequence[str]) -> list[int]:
    """Tenth of the document, from 0, in which each chunk begins, by characters."""
    before = [0, *accumulate(len(chunk) for chunk in chunks)]
    total = max(before[-1], 1)
    last = names.NUM_DECILES - 1
    return [min(last, names.NUM_DECILES * start // total) for start in before[:-1]]


def credited_citations(scored: ScoredSample) -> frozenset[int]:
    """Ids that the context reward looked at: none where the response could not be read."""
    is_read = scored.reward_parts["format_ok"] > 0 or scored.reward_parts["context_recall"] > 0
    return frozenset(scored.cited_chunk_ids) if is_read else frozenset()


def _citation_tally(valid: Sequence[ScoredSample]) -> Tally:
    repeated: list[float] = []
    unknown: list[float] = []
    for scored in valid:
        written, num_chunks = scored.cited_chunk_ids, len(scored.sample.prompt.chunks)
        num_repeats = len(written) - len(set(written))
        repeated += [1.0] * num_repeats + [0.0] * (len(written) - num_repeats)
        unknown += [float(not 0 <= chunk_id < num_chunks) for chunk_id in written]
    return Tally.of(
        {
            names.GROUNDING_CITATIONS_MEAN: [len(scored.cited_chunk_ids) for scored in valid],
            names.GROUNDING_REPEATED_CITATIONS_FRAC: repeated,
            names.GROUNDING_UNKNOWN_CITATIONS_FRAC: unknown,
        }
    )


def _split_tally(
    valid: Sequence[ScoredSample],
    *,
    bucket: Callable[[ScoredSample], int],
    bounds: Iterable[int],
    name: Callable[[int, str], str],
) -> Tally:
    groups: Mapping[int, list[ScoredSample]] = {bound: [] for bound in bounds}
    for scored in valid:
        groups[bucket(scored)].append(scored)
    return Tally.of(
        {
            name(bound, quantity): [scored.reward_parts[part] for scored in group]
            for bound, group in groups.items()
            for quantity, part in _REWARD_PARTS.items()
        }
    )


def _decile_tally(valid: Sequence[ScoredSample]) -> Tally:
    hits: dict[str, list[float]] = {
        names.grounding_by_decile(decile, quantity): []
        for decile in range(names.NUM_DECILES)
        for quantity in _DECILE_QUANTITIES
    }
    for samples in _by_prompt(valid):
        prompt = samples[0].sample.prompt
        deciles = chunk_deciles(prompt.chunks)
        cited = [credited_citations(scored) for scored in samples]
        for chunk_id, decile in enumerate(deciles):
            is_cited = [float(chunk_id in ids) for ids in cited]
            is_evidence = chunk_id in prompt.evidence_chunk_ids
            hits[names.grounding_by_decile(decile, "cited")] += is_cited
            hits[names.grounding_by_decile(decile, "precision")] += [float(is_evidence)] * int(
                sum(is_cited)
            )
            if is_evidence:
                hits[names.grounding_by_decile(decile, "recall")] += is_cited
    return Tally.of(hits)


def _by_prompt(valid: Sequence[ScoredSample]) -> list[list[ScoredSample]]:
    groups: dict[int, list[ScoredSample]] = defaultdict(list)
    for scored in valid:
        groups[id(scored.sample.prompt)].append(scored)
    return list(groups.values())
