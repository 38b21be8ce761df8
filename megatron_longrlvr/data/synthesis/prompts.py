"""What models are asked: messages of the shipped templates, and the form of each reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.chat.template import NONCE, MessageTemplate, load_messages
from megatron_longrlvr.data.synthesis.kept import hash_of

TEMPLATES = Path(__file__).parent / "templates"

QUESTION_FIELDS = frozenset({"passages", "candidate"})
RATING_FIELDS = frozenset({"passages", "question", "answer", "evidence"})
CLOSED_BOOK_FIELDS = frozenset({"question"})
DOCUMENT_FIELDS = frozenset({"document", "question"})
PASSAGES_FIELDS = frozenset({"passages", "question"})

# As in the judge's prompts.
_NONCE_CHARS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The JSON object that a reply must be."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One request for a reply: the same for the same material and seed."""

    messages: tuple[Mapping[str, str], ...]
    form: Form


class PromptMaker:
    """Fills one template.

    The code of a prompt is a hash of the run's seed and all that the prompt shows: a document that
    is to hold its own code would have to hold a hash of itself.
    """

    def __init__(
        self, name: str, form: Form, *, fields: Set[str], constants: Mapping[str, object], key: str
    ) -> None:
        """Read the template.

        Args:
            name: Shipped, or a path.
            form: Of the reply.
            fields: What each prompt brings.
            constants: What is the same in all of them; may stand in the system's message alone.
            key: Of the recipe, for messages.

        Raises:
            ConfigError: The template cannot be used.
        """
        self._constants = constants
        self._form = form
        self._template = _load(name, fields, frozenset(constants), key)

    @property
    def version(self) -> str:
        return self._template.version

    def make(self, values: Mapping[str, str], *, seed: int) -> Prompt:
        """A prompt that shows these values."""
        nonce = hash_of("nonce", seed, dict(values))[:_NONCE_CHARS]
        filled = self._template.fill({**self._constants, **values, NONCE: nonce})
        return Prompt(messages=tuple(filled), form=self._form)


def _load(name: str, fields: Set[str], constants: Set[str], key: str) -> MessageTemplate:
    return load_messages(
        name, shipped=TEMPLATES, fields=frozenset(fields), optional=constants, key=key
    )


def numbered(passages: Sequence[str]) -> str:
    """Passages as prompts show them, from number 1."""
    return "\n\n".join(
        f"PASSAGE {number}\n{text.strip()}" for number, text in enumerate(passages, start=1)
    )


def _object(**properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT: Mapping[str, Any] = {"type": "string"}
_RATING: Mapping[str, Any] = {"type": "integer", "minimum": 1, "maximum": 10}

QUESTION_FORM = Form(
    name="question",
    schema={
        "anyOf": [
            _object(
                question=_TEXT,
                answer=_TEXT,
                evidence={"type": "array", "items": {"type": "integer", "minimum": 1}},
                explanation=_TEXT,
            ),
            _object(skip=_TEXT),
        ]
    },
)
RATING_FORM = Form(
    name="rating", schema=_object(clarity=_RATING, correctness=_RATING, evidence=_RATING)
)
ANSWER_FORM = Form(name="answer", schema=_object(answer={"anyOf": [_TEXT, {"type": "null"}]}))
