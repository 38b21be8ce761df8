"""Section about signs that a reward is being gamed; nothing here changes training."""

from __future__ import annotations

from pydantic import Field

from megatron_longrlvr.config.section import Section


class AlarmsConfig(Section):
    """When a response looks suspicious, and when so many do that the run says so."""

    cited_frac: float = Field(default=0.5, gt=0, le=1)
    """``cites_everything``: the response cites at least this share of the document's chunks."""

    question_words: int = Field(default=3, ge=1)
    """``copies_question``: the answer has at least so many words, and stands word for word in the
    question."""

    compressed_frac: float = Field(default=0.15, gt=0, lt=1)
    """``repeats``: a response of 256 bytes or more shrinks by compression (zlib) below this share
    of its size. Ordinary text keeps a third or more."""

    raised_frac: float = Field(default=0.2, gt=0, le=1)
    """Share of a step's samples from which an alarm is raised."""

    length_ratio: float = Field(default=2.0, gt=1)
    """``length_drift``: mean response length above this times that of the first steps, or below
    its inverse."""

    length_baseline_steps: int = Field(default=5, ge=1)
    """First steps of the run, whose mean length is compared with."""

    examples: int = Field(default=2, ge=0)
    """Responses of each raised alarm that are kept, ``alarms/step_*.jsonl``; the first of each
    data-parallel rank come first."""
