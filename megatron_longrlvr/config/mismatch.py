"""What to do about the difference between the engine's log-probabilities and the learner's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_longrlvr.config.section import Section


class MismatchConfig(Section):
    """Corrections and limits; the difference itself is measured at every step.

    All of it needs ``algorithm.proximal=recompute``: otherwise the learner takes the engine's word.
    """

    importance: Literal["none", "truncated"] = "none"
    """``truncated`` weights a token's advantage by the probability that the learner gave it over
    the one that the engine gave it, at most ``truncate_at``."""

    truncate_at: float = Field(default=2.0, ge=1)

    mask_sample_above: float | None = Field(default=None, gt=0)
    """Leave a sample out of the loss, not of its denominator, where the mean absolute gap of its
    tokens (nats) is above this; null keeps all."""

    stop_above: float | None = Field(default=None, gt=0)
    """Stop the run before an update where the mean absolute gap over all tokens (nats) is above
    this; null never does."""
