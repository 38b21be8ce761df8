"""Sections about servers that speak OpenAI's protocol: where they are, and how patient to be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_longrlvr.config.section import Section

StructuredOutput = Literal[
    "none", "json_object", "json_schema", "guided_json", "structured_outputs"
]
"""How a server is told the form of a reply. ``json_object`` and ``json_schema`` are OpenAI's
``response_format``; ``guided_json`` is vLLM's before 0.12, ``structured_outputs`` vLLM's since."""


class ChatEndpointConfig(Section):
    """One server that speaks OpenAI's protocol."""

    url: str = Field(pattern=r"^https?://[^\s@?#]+$")
    """Base address without credentials, e.g. ``http://judge:8000/v1``."""

    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; the key itself has no place here."""

    max_concurrent: int = Field(default=64, gt=0, le=4096)
    """Requests under way at the same time, of each process that asks (in training: of each
    data-parallel rank)."""

    requests_per_minute: float | None = Field(default=None, gt=0)
    """Limit of each process that asks; null for none."""

    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Likewise, of prompt and reply tokens: estimated before a request, corrected after it."""


class ChatRetryConfig(Section):
    """How long one reply is worth trying for."""

    max_attempts: int = Field(default=6, gt=0)
    """Requests for one reply (of a judge: for one vote), the first included."""

    backoff_s: float = Field(default=0.5, gt=0)
    """Longest pause after the first failure; doubles with each further one. The pause is drawn
    evenly from 0 up to it. A server's ``Retry-After`` is waited for as well."""

    max_backoff_s: float = Field(default=30.0, gt=0)
    connect_timeout_s: float = Field(default=5.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
    """Between two pieces of a reply. Replies come in one piece, when they are complete."""

    total_timeout_s: float = Field(default=180.0, gt=0)
    """For one reply: all attempts and pauses, from the moment there is room for it."""


class ChatBreakerConfig(Section):
    """When an endpoint that keeps failing is left alone."""

    failures: int = Field(default=5, gt=0)
    """Failures in a row that open the circuit."""

    open_s: float = Field(default=5.0, gt=0)
    """Time until a single request may probe the endpoint; doubles while probes fail."""

    max_open_s: float = Field(default=60.0, gt=0)
