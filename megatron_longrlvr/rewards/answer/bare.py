"""An answer without the tags of the response format, which say nothing about its content.

Models leave stray tags around answers: an unclosed ``<answer>``, a citation, an end-of-turn token.
Each becomes a space. Other markup stays: ``<div>`` may be the answer to a question about HTML.
"""

from __future__ import annotations

import re

# No alternative holds a "<" behind its first character, so a tag next to a text never reads any of
# it, whatever the text; all quantifiers are possessive, so the time is linear.
_FORMAT_TAG = re.compile(
    r"<\s*+/?+\s*+(?:final[\s_]?+answer|answer|useful[\s_-]?+chunks?+|chunk[\s_]?+\d++"
    r"|think(?:ing)?+|reasoning|explain|assistant|im_(?:start|end))\s*+/?+\s*+>"
    r"|<\|[^|<>]*+\|>",
    re.IGNORECASE,
)


def bare(text: str) -> str:
    """Replace every tag of the format by a space and strip."""
    return (_FORMAT_TAG.sub(" ", text) if "<" in text else text).strip()
