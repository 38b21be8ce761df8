"""Prompts as files: two messages with a version, filled in with material from outside.

The material stands between lines that carry a code, ``$nonce``, which nobody who wrote it can know,
so nothing in it can end its own section.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from megatron_longrlvr.errors import ConfigError

NONCE = "nonce"


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageTemplate:
    """A prompt in two messages."""

    version: str
    """Name from the file and a hash of its content: an edit without a new name shows."""

    system: str
    user: str

    def fill(self, values: Mapping[str, object]) -> list[dict[str, str]]:
        """Chat messages; every placeholder needs a value, the nonce included."""
        return [
            {"role": "system", "content": Template(self.system).substitute(values)},
            {"role": "user", "content": Template(self.user).substitute(values)},
        ]


def load_messages(
    name: str, *, shipped: Path, fields: Set[str], key: str, optional: Set[str] = frozenset()
) -> MessageTemplate:
    """Read a shipped template by its name, or one of yours by its path.

    Args:
        name: Without folder and ending, or a path.
        shipped: Folder of those that come with the package.
        fields: Placeholders that the user's message must hold; the system's may hold them too.
        key: Of the recipe, for messages.
        optional: Placeholders that may stand in either message.

    Raises:
        ConfigError: There is no such file, or it lacks a part or a placeholder.
    """
    path = next((p for p in (shipped / f"{name}.yaml", Path(name)) if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        raise ConfigError(f"{key}={name!r}: give a YAML file or one of {known}")
    data = path.read_bytes()
    try:
        content = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"version", "system", "user"}:
        raise ConfigError(f"{key}: {path} must hold version, system and user")
    template = MessageTemplate(
        version=f"{content['version']}@{hashlib.sha256(data).hexdigest()[:12]}",
        system=str(content["system"]),
        user=str(content["user"]),
    )
    _check(template, path, needed=fields | {NONCE}, optional=optional, key=key)
    return template


def _check(
    template: MessageTemplate, path: Path, *, needed: Set[str], optional: Set[str], key: str
) -> None:
    places = {
        part: Template(text)
        for part, text in (("system", template.system), ("user", template.user))
    }
    allowed = needed | optional
    for part, text in places.items():
        unknown = set(text.get_identifiers()) - allowed
        if unknown or not text.is_valid():
            raise ConfigError(
                f"{key}: {part} of {path} has placeholders other than "
                f"{', '.join(f'${field}' for field in sorted(allowed))}: {sorted(unknown)}"
            )
    missing = needed - set(places["user"].get_identifiers())
    if missing:
        raise ConfigError(f"{key}: user of {path} lacks ${sorted(missing)[0]}")
