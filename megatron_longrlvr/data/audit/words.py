"""Texts as words: what is compared when an answer or a question is looked for elsewhere."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Scripts without spaces count each character as a word.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")


def split_words(text: str) -> list[str]:
    """Words in order, case folded; punctuation and white space only separate."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.casefold())


def join_words(words: Sequence[str]) -> str:
    """One text with a blank on both sides of each word.

    A joined text occurs in another one only where its words do, whole and in order.
    """
    return f" {' '.join(words)} "
