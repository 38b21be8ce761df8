"""Section about the judge: a language model behind HTTP that compares answers with references."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_longrlvr.config.section import Section


class JudgeEndpointConfig(Section):
    """One server that speaks OpenAI's chat completions."""

    url: str = Field(pattern=r"^https?://[^\s@?#]+$")
    """Base address without credentials, e.g. ``http://judge:8000/v1``."""

    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; the key itself has no place here."""

    max_concurrent: int = Field(default=64, gt=0, le=4096)
    """Requests under way at the same time, of each data-parallel rank."""

    requests_per_minute: float | None = Field(default=None, gt=0)
    """Limit of each data-parallel rank; null for none."""

    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Likewise, of prompt and reply tokens: estimated before a request, corrected after it."""


class JudgeRetryConfig(Section):
    """How long one verdict is worth trying for."""

    max_attempts: int = Field(default=6, gt=0)
    """Requests for one vote, the first included."""

    backoff_s: float = Field(default=0.5, gt=0)
    """Longest pause after the first failure; doubles with each further one. The pause is drawn
    evenly from 0 up to it. A server's ``Retry-After`` is waited for as well."""

    max_backoff_s: float = Field(default=30.0, gt=0)
    connect_timeout_s: float = Field(default=5.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
    """Between two pieces of a reply."""

    total_timeout_s: float = Field(default=180.0, gt=0)
    """For one vote: all attempts and pauses, from the moment there is room for it."""


class JudgeBreakerConfig(Section):
    """When an endpoint that keeps failing is left alone."""

    failures: int = Field(default=5, gt=0)
    """Failures in a row that open the circuit."""

    open_s: float = Field(default=5.0, gt=0)
    """Time until a single request may probe the endpoint; doubles while probes fail."""

    max_open_s: float = Field(default=60.0, gt=0)


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

    endpoints: list[JudgeEndpointConfig] = Field(min_length=1)
    template: str = "equivalence-1"
    """Prompt template: one shipped in ``rewards/judge/templates``, or a YAML file of yours."""

    structured_output: Literal[
        "none", "json_object", "json_schema", "guided_json", "structured_outputs"
    ] = "json_schema"
    """How the server is told the form of a verdict. ``json_object`` and ``json_schema`` are
    OpenAI's ``response_format``; ``guided_json`` is vLLM's before 0.12, ``structured_outputs``
    vLLM's since. The reply is held against the same grammar whatever is set here."""

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

    retry: JudgeRetryConfig = JudgeRetryConfig()
    breaker: JudgeBreakerConfig = JudgeBreakerConfig()
    outage: JudgeOutageConfig = JudgeOutageConfig()

    @model_validator(mode="after")
    def _votes_can_decide(self) -> JudgeConfig:
        if self.votes % 2 == 0:
            raise ValueError(f"votes={self.votes} can end in a tie; use an odd number")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(f"votes={self.votes} at temperature=0 asks for the same vote again")
        return self
