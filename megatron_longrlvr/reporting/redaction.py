"""Nothing secret leaves in a report, whatever a configuration or a command line holds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

# Names of settings whose text is a secret; numbers never are (max_response_tokens).
_SECRET_KEY = re.compile(
    r"(?:^|[._-])(?:api[._-]?key|secret|password|passwd|token|auth|authorization|credentials?)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s@]+@"  # user and password of an address
    r"|\b(?:sk|hf|ghp|gho|glpat|xox[abp])[-_][A-Za-z0-9_-]{12,}"  # tokens of well-known services
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|(?P<bearer>\bBearer\s+)\S+"
    r"|(?P<given>\b[\w.-]*(?:api[_-]?key|secret|password|token)\s*=\s*)[^\s\d][^\s]*",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")
_MIN_SECRET_CHARS = 8


def redact(content: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON content without secrets: by the name of a setting, and by what a text looks like."""
    if isinstance(content, Mapping):
        return {key: _redact_value(key, value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [redact(value) for value in content]
    return _redact_text(content) if isinstance(content, str) else content


def hide_variables(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Text without the values of environment variables that are named like secrets.

    Args:
        text: Anything that is to be shown.
        variables: Defaults to the environment of this process.
    """
    for name, value in (os.environ if variables is None else variables).items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _MIN_SECRET_CHARS:
            text = text.replace(value, REDACTED)
    return text


def _redact_value(key: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, str) and value and _SECRET_KEY.search(key):
        return REDACTED
    return redact(value)


def _redact_text(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        kept = match["scheme"] or match["bearer"] or match["given"] or ""
        return f"{kept}{REDACTED}{'@' if match['scheme'] else ''}"

    return _SECRET_TEXT.sub(replace, text)
