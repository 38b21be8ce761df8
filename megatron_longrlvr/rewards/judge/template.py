"""The judge's prompt: a file with a version, filled in with material that cannot break out of it.

Question, references and answer stand between lines that carry a code drawn anew for every request,
so nobody who writes an answer can write its closing line. The answer goes through
``untrusted.neutralize`` besides.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.chat.template import NONCE, MessageTemplate, load_messages
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.untrusted import neutralize

TEMPLATES = Path(__file__).parent / "templates"

_FIELDS = frozenset({"question", "references", "answer"})
# 64 bits: not to be guessed, and short enough for a small judge to keep in mind.
_NONCE_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """A prompt in two messages."""

    template: MessageTemplate

    @property
    def version(self) -> str:
        return self.template.version

    def messages(self, query: JudgeQuery) -> list[dict[str, str]]:
        """Chat messages for one request; no two are alike."""
        return self.template.fill(
            {
                NONCE: secrets.token_hex(_NONCE_BYTES),
                "question": query.question,
                "references": "\n".join(f"- {reference}" for reference in query.references),
                "answer": neutralize(query.answer),
            }
        )


def load_template(name: str) -> PromptTemplate:
    """Read a shipped template by its name, or one of yours by its path.

    Raises:
        ConfigError: There is no such file, or it lacks a part or a placeholder.
    """
    template = load_messages(name, shipped=TEMPLATES, fields=_FIELDS, key="rewards.judge.template")
    return PromptTemplate(template=template)
