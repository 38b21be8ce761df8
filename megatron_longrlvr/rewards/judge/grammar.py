"""The one form a verdict may have: ``{"verdict": "yes"}`` or ``{"verdict": "no"}``.

Everything else is no verdict: a search for the word somewhere in the reply would find it in "I
cannot say yes". See ``chat/grammar.py`` for what may stand around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_longrlvr.chat.grammar import read_object
from megatron_longrlvr.stages import Verdict

VERDICT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}

_VERDICTS = {"yes": Verdict.YES, "no": Verdict.NO}


def parse_verdict(reply: str) -> Verdict | None:
    """Read a reply; None where it is not exactly one verdict."""
    content = read_object(reply)
    if content is None or content.keys() != {"verdict"}:
        return None
    value = content["verdict"]
    return _VERDICTS.get(value) if isinstance(value, str) else None
