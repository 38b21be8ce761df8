"""The judge's prompt: a file with a version, filled in with material that cannot break out of it.

Question, references and answer stand between lines that carry a code drawn anew for every request,
so nobody who writes an answer can write its closing line. The answer goes through
``untrusted.neutralize`` besides.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.untrusted import neutralize

TEMPLATES = Path(__file__).parent / "templates"

_FIELDS = frozenset({"question", "references", "answer", "nonce"})
# 64 bits: not to be guessed, and short enough for a small judge to keep in mind.
_NONCE_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """A prompt in two messages."""

    version: str
    """Name from the file and a hash of its content: an edit without a new name shows."""

    system: str
    user: str

    def messages(self, query: JudgeQuery) -> list[dict[str, str]]:
        """Chat messages for one request; no two are alike."""
        values = {
            "nonce": secrets.token_hex(_NONCE_BYTES),
            "question": query.question,
            "references": "\n".join(f"- {reference}" for reference in query.references),
            "answer": neutralize(query.answer),
        }
        return [
            {"role": "system", "content": Template(self.system).substitute(values)},
            {"role": "user", "content": Template(self.user).substitute(values)},
        ]


def load_template(name: str) -> PromptTemplate:
    """Read a shipped template by its name, or one of yours by its path.

    Raises:
        ConfigError: There is no such file, or it lacks a part or a placeholder.
    """
    path = next((p for p in (TEMPLATES / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        shipped = ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.yaml")))
        raise ConfigError(f"rewards.judge.template={name!r}: give a YAML file or one of {shipped}")
    data = path.read_bytes()
    try:
        content = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ConfigError(f"rewards.judge.template: {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"version", "system", "user"}:
        raise ConfigError(f"rewards.judge.template: {path} must hold version, system and user")
    template = PromptTemplate(
        version=f"{content['version']}@{hashlib.sha256(data).hexdigest()[:12]}",
        system=str(content["system"]),
        user=str(content["user"]),
    )
    _check(template, path)
    return template


def _check(template: PromptTemplate, path: Path) -> None:
    places = {
        part: Template(text)
        for part, text in (("system", template.system), ("user", template.user))
    }
    for part, text in places.items():
        unknown = set(text.get_identifiers()) - _FIELDS
        if unknown or not text.is_valid():
            raise ConfigError(
                f"rewards.judge.template: {part} of {path} has placeholders other than "
                f"{', '.join(f'${field}' for field in sorted(_FIELDS))}: {sorted(unknown)}"
            )
    missing = _FIELDS - set(places["user"].get_identifiers())
    if missing:
        raise ConfigError(f"rewards.judge.template: user of {path} lacks ${sorted(missing)[0]}")
