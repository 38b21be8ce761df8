"""Signs that a reward is being gamed: what each response looks like, and when to speak up.

    cites_everything   most of the document is cited, whatever the question
    cites_nothing      no chunk is cited
    copies_question    the answer is a piece of the question
    repeats            the response goes round in circles
    length_drift       responses are much longer, or shorter, than at the start of the run

An alarm is no verdict: a response is never scored by it. Thresholds are ``alarms`` of the recipe.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

from megatron_longrlvr.config.alarms import AlarmsConfig
from megatron_longrlvr.data.audit.words import join_words, split_words
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.stages import ScoredSample

LENGTH_DRIFT = "length_drift"

# Below this zlib's own header and the lack of anything to refer to dominate.
_MIN_COMPRESSED_BYTES = 256


def find_alarms(scored: ScoredSample, config: AlarmsConfig) -> list[str]:
    """Names of the alarms that a response looks like, in the order of :data:`ALARMS`."""
    return [alarm for alarm, looks_like in ALARMS.items() if looks_like(scored, config)]


def alarm_tally(scored: Sequence[ScoredSample], config: AlarmsConfig) -> Tally:
    """Count the responses that look like each alarm, of all samples."""
    found = [find_alarms(one, config) for one in scored]
    return Tally.of(
        {names.alarm_frac(alarm): [float(alarm in one) for one in found] for alarm in ALARMS}
    )


def raised_alarms(metrics: Mapping[str, float], config: AlarmsConfig) -> list[str]:
    """Alarms of a step, from its metrics over all ranks."""
    raised = [
        alarm for alarm in ALARMS if metrics.get(names.alarm_frac(alarm), 0.0) >= config.raised_frac
    ]
    ratio = metrics.get(names.ALARM_LENGTH_RATIO, 1.0)
    is_drifting = ratio > config.length_ratio or ratio < 1 / config.length_ratio
    return [*raised, LENGTH_DRIFT] if is_drifting else raised


class LengthDrift:
    """Compares the mean response length of a step with that of the run's first steps."""

    def __init__(self, baseline_steps: int, *, earlier: Sequence[float] = ()) -> None:
        """Begin, or go on.

        Args:
            baseline_steps: First steps that make up the baseline.
            earlier: Mean lengths (tokens) of the steps that an earlier start has done, in order.
        """
        self._baseline_steps = baseline_steps
        self._first = list(earlier[:baseline_steps])

    def ratio(self, mean_tokens: float) -> float:
        """Take in the next step; 1 until the baseline is complete."""
        if len(self._first) < self._baseline_steps:
            self._first.append(mean_tokens)
            return 1.0
        baseline = sum(self._first) / len(self._first)
        return mean_tokens / baseline if baseline else 1.0


def _cites_everything(scored: ScoredSample, config: AlarmsConfig) -> bool:
    num_chunks = len(scored.sample.prompt.chunks)
    num_cited = sum(0 <= chunk_id < num_chunks for chunk_id in set(scored.cited_chunk_ids))
    return num_cited > 0 and num_cited >= config.cited_frac * num_chunks


def _cites_nothing(scored: ScoredSample, _config: AlarmsConfig) -> bool:
    return not scored.cited_chunk_ids


def _copies_question(scored: ScoredSample, config: AlarmsConfig) -> bool:
    words = split_words(scored.answer or "")
    if len(words) < config.question_words:
        return False
    return join_words(words) in join_words(split_words(scored.sample.prompt.question))


def _repeats(scored: ScoredSample, config: AlarmsConfig) -> bool:
    # A tokenizer can decode to halves of surrogate pairs.
    written = scored.sample.text.encode("utf-8", errors="replace")
    if len(written) < _MIN_COMPRESSED_BYTES:
        return False
    return len(zlib.compress(written)) < config.compressed_frac * len(written)


ALARMS: Mapping[str, Callable[[ScoredSample, AlarmsConfig], bool]] = {
    "cites_everything": _cites_everything,
    "cites_nothing": _cites_nothing,
    "copies_question": _copies_question,
    "repeats": _repeats,
}
"""What a single response can look like, by name."""
