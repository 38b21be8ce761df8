"""An answer without the tags of the response format, which say nothing about its content.

Models leave stray tags around answers: an unclosed ``<answer>``, a citation such as ``<CHUNK_3>``
or ``[CHUNK_3, CHUNK_7]``, an end-of-turn token. Each becomes a space. Other markup stays: ``<div>``
may be the answer to a question about HTML.
"""

from __future__ import annotations

import re

# No alternative holds an opening bracket behind its first character, so a tag next to a text never
# reads any of it, whatever the text; all quantifiers are possessive, so the time is linear.
_FORMAT_TAG = re.compile(
    r"<\s*+/?+\s*+(?:final[\s_]?+answer|answer|useful[\s_-]?+chunks?+|chunk[\s_]?+\d++"
    r"|think(?:ing)?+|reasoning|explain|assistant|im_(?:start|end)|(?:start|end)_of_turn|s)"
    r"\s*+/?+\s*+>"
    r"|<[|\uff5c][^|\uff5c<>]*+[|\uff5c]>",
    re.IGNORECASE,
)
_CHUNK = r"chunks?+[\s_#]?+\d++"
_CITATION = re.compile(
    rf"[\[(\u3010]\s*+(?:(?:see|from|source)[\s:]++)?+{_CHUNK}"
    rf"(?:\s*+(?:[,;&]|and\b)\s*+(?:{_CHUNK}|\d++))*+\s*+[\])\u3011]",
    re.IGNORECASE,
)
_OPENING = re.compile(r"[<\[(\u3010]")


def bare(text: str) -> str:
    """Replace every tag of the format and every bracketed citation by a space and strip."""
    if _OPENING.search(text):
        text = _CITATION.sub(" ", _FORMAT_TAG.sub(" ", text))
    return text.strip()
