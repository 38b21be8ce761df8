"""Segment credit: each part of the reward goes to the tokens that earn it.

    reasoning</think><useful_chunks>...</useful_chunks> <answer>...</answer><end>
    |------------------ context -------------------||--------- answer ----------|

The reward is r = r_answer + r_context, where the context part holds what is paid for citing
whatever the answer and what is paid for both together. Each part has an advantage of its own, taken
within the group by the recipe's rule. A token up to the end of the citation block gets that of the
context part; the answer block, and what follows the citation block, get that of the answer part. So
a wrong answer does not speak against the citations before it, nor do lucky citations speak for the
answer behind them. Where the answer stands first it keeps its own part. A token belongs where it
begins.

A response that its parser finds other than OK, or whose blocks overlap, has no such parts. Its
tokens all get the advantage of the whole reward, and it is counted. It stays in the baselines of
its siblings with what it earned.

Not in the paper, which has one advantage for all tokens of a response.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.data.response_format import BlockPlaces, places_strict, places_tolerant
from megatron_longrlvr.rewards.composite import split_reward
from megatron_longrlvr.stages import Sample, ScoredSample

_PLACES: Mapping[str, Callable[[str], BlockPlaces | None]] = {
    "strict": places_strict,
    "tolerant": places_tolerant,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentCredit:
    """Divides rewards and responses into context and answer."""

    rewards: RewardsConfig
    """Supplies the parser and the terms of the reward."""

    decode: Callable[[Sequence[int]], str]
    """What made the text of samples; the text of some tokens opens that of more of them."""

    def parts(self, scored: ScoredSample) -> tuple[float, float]:
        """Context and answer part of a reward; a charge for length is taken off both."""
        terms = split_reward(
            self.rewards,
            answer=scored.reward_parts["answer"],
            f_beta=scored.reward_parts["context_f_beta"],
        )
        context = terms["context"] + terms["joint"]
        return context - scored.overlong_charge, terms["answer"] - scored.overlong_charge

    def context_tokens(self, sample: Sample) -> list[bool] | None:
        """Whether each token of a response belongs to its context part; None without parts."""
        places = _PLACES[self.rewards.parser](sample.text)
        if places is None:
            return None
        is_context = [False] * len(sample.token_ids)
        for start, stop in _context_runs(places):
            first, after = (self._first_token(sample, char) for char in (start, stop))
            is_context[first:after] = [True] * (after - first)
        return is_context

    def _first_token(self, sample: Sample, char: int) -> int:
        """Index of the first token that begins at a character or behind it.

        A token begins where the text of those before it ends. A character of several bytes may take
        several tokens, all of which begin where it does: until the last of them the text ends in
        replacement characters.
        """
        ids = sample.token_ids
        return bisect_left(
            range(len(ids)), char, key=lambda i: len(self.decode(ids[:i]).rstrip("\ufffd"))
        )


def _context_runs(places: BlockPlaces) -> list[tuple[int, int]]:
    """Characters of the context part, as runs from start to stop."""
    citation, answer = places.citation, places.answer
    if citation.start < answer.start:
        return [(0, citation.stop)]
    return [(0, answer.start), (answer.stop, citation.stop)]
