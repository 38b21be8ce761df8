"""The one form a verdict may have: ``{"verdict": "yes"}`` or ``{"verdict": "no"}``.

White space around and inside is free, and one leading ``<think>...</think>`` block, as reasoning
models write it, is passed over. Everything else is no verdict: a search for the word somewhere in
the reply would find it in "I cannot say yes".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from megatron_longrlvr.stages import Verdict

VERDICT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}

_THINK, _END_THINK = "<think>", "</think>"
_VERDICTS = {"yes": Verdict.YES, "no": Verdict.NO}


def parse_verdict(reply: str) -> Verdict | None:
    """Read a reply; None where it is not exactly one verdict."""
    text = reply.strip()
    if text.startswith(_THINK):
        # More than one end: which one closes the reasoning would be a guess.
        if text.count(_END_THINK) != 1:
            return None
        text = text.partition(_END_THINK)[2]
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    # Pairs instead of a mapping: a key that stands twice must not pass.
    if not isinstance(pairs, list) or len(pairs) != 1 or not isinstance(pairs[0], tuple):
        return None
    key, value = pairs[0]
    return _VERDICTS.get(value) if key == "verdict" and isinstance(value, str) else None


def structured_output(kind: str) -> dict[str, Any]:
    """Fields of a request that ask the server for this form; see ``judge.structured_output``."""
    schema = dict(VERDICT_SCHEMA)
    fields: dict[str, dict[str, Any]] = {
        "none": {},
        "json_object": {"response_format": {"type": "json_object"}},
        "json_schema": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": schema},
            }
        },
        "guided_json": {"guided_json": schema},
        "structured_outputs": {"structured_outputs": {"json": schema}},
    }
    return fields[kind]
