"""Replies that are one JSON object and nothing else.

White space around and inside is free, and one leading ``<think>...</think>`` block, as reasoning
models write it, is passed over, also without ``<think>``, which some chat templates write for the
model. Everything else is no reply: what a search for a word or a number
finds somewhere in the text may be the opposite of what was meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from megatron_longrlvr.config.chat import StructuredOutput
from megatron_longrlvr.data.strict_json import without_repeats

_THINK, _END_THINK = "<think>", "</think>"


def read_object(reply: str) -> dict[str, Any] | None:
    """Read a reply; None where it is not exactly one JSON object without repeated keys."""
    text = reply.strip()
    if text.startswith(_THINK) or (not text.startswith("{") and _END_THINK in text):
        # More than one end: which one closes the reasoning would be a guess.
        if text.count(_END_THINK) != 1:
            return None
        text = text.partition(_END_THINK)[2]
    try:
        content = json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def structured_output(
    kind: StructuredOutput, *, name: str, schema: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of a request that ask the server for an object of this schema."""
    form = dict(schema)
    fields: dict[StructuredOutput, dict[str, Any]] = {
        "none": {},
        "json_object": {"response_format": {"type": "json_object"}},
        "json_schema": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "strict": True, "schema": form},
            }
        },
        "guided_json": {"guided_json": form},
        "structured_outputs": {"structured_outputs": {"json": form}},
    }
    return fields[kind]
