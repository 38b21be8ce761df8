"""Section about the judge: a language model behind HTTP that compares answers with references."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_longrlvr.config.chat import (
    ChatBreakerConfig,
    ChatEndpointConfig,
    ChatRetryConfig,
    StructuredOutput,
)
from megatron_longrlvr.config.section import Section


class JudgeOutageConfig(Section):
    """What a run does when too many verdicts are missing."""

    max_failure_rate: float = Field(default=0.2, ge=0, lt=1)
    """Share of a batch's judged answers, over all ranks, that may stay without a verdict."""

    action: Literal["pause", "stop"] = "pause"
    """``pause``: wait, probe, ask again for the missing verdicts; ``stop``: end the run at once."""

    probe_every_s: float = Field(default=15.0, gt=0)
    max_pause_s: float = Field(default=1800.0, gt=0)
    """Waiting of one batch after which a paused run stops."""


class JudgeConfig(Section):
    """Who judges, what is asked, and what happens when no verdict comes."""

    model: str = Field(min_length=1)
    """Name that the endpoints know the model by."""

    endpoints: list[ChatEndpointConfig] = Field(min_length=1)
    template: str = "equivalence-1"
    """Prompt template: one shipped in ``rewards/judge/templates``, or a YAML file of yours."""

    structured_output: StructuredOutput = "json_schema"
    """How the server is told the form of a verdict, see ``config/chat.py``. The reply is held
    against the same grammar whatever is set here."""

    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=32, gt=0)
    """Of a reply; a judge that reasons before its verdict needs more."""

    votes: int = Field(default=1, gt=0)
    """Odd; more than half of them decide. Votes that fail count for neither side."""

    max_answer_chars: int = Field(default=8000, gt=0)
    """A longer answer is wrong without being judged; nothing is ever cut."""

    cache: str | None = "judge.sqlite"
    """SQLite file of verdicts, relative to the run directory; null for none. Processes of one
    machine may share it; SQLite's log does not work over network file systems between machines."""

    retry: ChatRetryConfig = ChatRetryConfig()
    breaker: ChatBreakerConfig = ChatBreakerConfig()
    outage: JudgeOutageConfig = JudgeOutageConfig()

    @model_validator(mode="after")
    def _votes_can_decide(self) -> JudgeConfig:
        if self.votes % 2 == 0:
            raise ValueError(f"votes={self.votes} can end in a tie; use an odd number")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(f"votes={self.votes} at temperature=0 asks for the same vote again")
        return self
