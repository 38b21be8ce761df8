"""Turn pydantic's complaints into sentences about dotted keys.

Unions of sections are told apart by their field ``kind``. pydantic puts that tag into the
location of a problem (``data.train.toy.seed``) although no key is called so; here it is taken out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

# Longest value shown in a message; a whole section given by mistake would bury the rest.
_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    key: tuple[str, ...]
    sections: tuple[type[BaseModel], ...]
    """Sections that may lie at the key; none where it is a value."""


def explain(problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """One problem of a ``ValidationError`` as a sentence that names the dotted key."""
    *parents, last = problem["loc"]
    kind = problem["type"]
    if kind == "extra_forbidden":
        return _unknown_key(str(last), _find(schema, parents), schema)
    place = _find(schema, problem["loc"])
    key = ".".join(place.key)
    if kind == "missing":
        return f"{key} is missing"
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        given = f"={problem['ctx']['tag']!r}" if "tag" in problem["ctx"] else " is missing"
        return f"{key}.kind{given}: use {_listed(_kind_of(model) for model in place.sections)}"
    given = problem["input"]
    shown = "(not shown)" if _may_be_secret(place.key[-1], given) else _shown(given)
    return f"{key}={shown}: {problem['msg']}"


def _unknown_key(name: str, parent: _Place, schema: type[BaseModel]) -> str:
    known = [field for model in parent.sections for field in model.model_fields]
    near = difflib.get_close_matches(name, known, n=1)
    meant = [".".join((*parent.key, field)) for field in near]
    meant = meant or [key for key in _keys(schema) if key.rpartition(".")[2] == name]
    hint = f"did you mean {_listed(meant)}?" if meant else f"known here: {', '.join(known)}"
    return f"unknown key {'.'.join((*parent.key, name))!r}; {hint}"


def _find(schema: type[BaseModel], location: Sequence[str | int]) -> _Place:
    key: list[str] = []
    sections: tuple[type[BaseModel], ...] = (schema,)
    for part in location:
        if len(sections) > 1 and isinstance(part, str):
            sections = tuple(model for model in sections if _kind_of(model) == part)
            continue
        key.append(str(part))
        if isinstance(part, int):
            continue
        fields = [model.model_fields.get(part) for model in sections]
        sections = tuple(
            found for field in fields if field for found in _sections_in(field.annotation)
        )
    return _Place(key=tuple(key), sections=sections)


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a schema."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections_in(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def _sections_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _kind_of(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _may_be_secret(field: str, value: object) -> bool:
    """Whether somebody may have put a key or a password there by mistake."""
    return field == "api_key_env" or (field == "url" and "@" in str(value))


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return " or ".join(repr(name) for name in dict.fromkeys(names))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."
