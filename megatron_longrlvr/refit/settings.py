"""How weights are handed over."""

from __future__ import annotations

from dataclasses import dataclass

SERVER_BACKEND = "longrlvr_server"
"""Name of a server's end of a refit, for vLLM; it takes buckets as files and by broadcast."""

SERVER_EXTENSION = "megatron_longrlvr.refit.server_receiver.RefitExtension"
"""What a server's workers import to know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitSettings:
    """The same for every transport."""

    bucket_bytes: int
    verify_every: int
    """Updates per verified one, the first included; 0 verifies none."""

    verify_columns: int | None
    """Columns per tensor; None for all of them."""
