"""The text of a web page: what a reader sees, block by block."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

# Never part of what a page says: code, forms, and what surrounds the content.
_SKIPPED = frozenset(
    {"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head"}
    | {"form", "button", "select", "textarea", "nav", "header", "footer", "aside"}
)
# Elements that begin a line, and those with space around them.
_LINES = frozenset({"br", "tr", "li", "dt", "dd", "option"})
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "blockquote", "pre", "table", "ul", "ol", "dl"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "figure", "figcaption", "hr", "address", "body"}
)
_CELLS = frozenset({"td", "th"})
_SPACE = re.compile(r"[ \t\r\n\f]+")
# What is left of the white space around a tag; more than one blank is indentation.
_LONE_SPACE = re.compile(r"^ (?! )")
_TEXT, _COMMENT = "-text", "-comment"


def html_text(html: str) -> str:
    """Paragraphs apart by blank lines; white space as a browser would show it."""
    root = LexborHTMLParser(html).body
    if root is None:
        return ""
    pieces: list[str] = []
    # A stack of our own: markup may nest deeper than calls can.
    stack: list[LexborNode | str] = [root]
    is_verbatim = 0
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            is_verbatim -= node == "pre"
            pieces.append(_after(node))
            continue
        tag = node.tag or _COMMENT
        if tag == _TEXT:
            text = node.text_content or ""
            pieces.append(text if is_verbatim else _SPACE.sub(" ", text))
        elif tag != _COMMENT and tag not in _SKIPPED:
            is_verbatim += tag == "pre"
            pieces.append(_before(tag))
            stack.append(tag)
            stack.extend(reversed(_children(node)))
    return _tidy("".join(pieces))


def _children(node: LexborNode) -> list[LexborNode]:
    children = []
    child = node.child
    while child is not None:
        children.append(child)
        child = child.next
    return children


def _before(tag: str) -> str:
    return "\n" if tag in _LINES else "\n\n" if tag in _BLOCKS else ""


def _after(tag: str) -> str:
    return "\t" if tag in _CELLS else "\n\n" if tag in _BLOCKS else ""


def _tidy(text: str) -> str:
    lines = [_LONE_SPACE.sub("", line.rstrip()) for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
