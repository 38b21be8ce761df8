"""The text of a PDF, page by page."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib

from pypdf import PdfReader
from pypdf.errors import PyPdfError

# What broken files make pypdf raise beside its own errors.
_BROKEN = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(RecursionError, NotImplementedError, OSError, struct.error, zlib.error),
)
# A word that a line end divides: "exam-" and "ple".
_DIVIDED = re.compile(r"(?<=[a-z])-\n(?=[a-z])")


class UnreadablePdf(Exception):  # noqa: N818 - read as "the file is an unreadable PDF"
    """The file is broken or asks for a password."""


def pdf_text(data: bytes) -> str:
    """Pages apart by blank lines, words that a line end divides put together again.

    Raises:
        UnreadablePdf: Says why.
    """
    # It warns about every oddity of every file.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadablePdf("it is encrypted")
        pages = [page.extract_text() for page in reader.pages]
    except (PyPdfError, *_BROKEN) as error:
        raise UnreadablePdf(f"{type(error).__name__}: {error}") from error
    return _DIVIDED.sub("", "\n\n".join(page.strip() for page in pages)).strip()
