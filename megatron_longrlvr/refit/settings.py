"""How weights are handed over."""

from __future__ import annotations

from dataclasses import dataclass

FILES_BACKEND = "longrlvr_files"
"""Name of the transport through files, for vLLM."""

FILES_EXTENSION = "megatron_longrlvr.refit.file_receiver.RefitExtension"
"""What a server's workers import to know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitSettings:
    """The same for every transport."""

    bucket_bytes: int
    verify_every: int
    """Updates per verified one, the first included; 0 verifies none."""

    verify_columns: int | None
    """Columns per tensor; None for all of them."""
