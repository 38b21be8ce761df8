"""Read a recipe: YAML file, dotted overrides, typed result.

Every complaint names the dotted key, what was given and what would have been accepted; an
unknown key comes with the nearest known one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from megatron_longrlvr.config.explain import explain
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.files import write_atomically

RECIPES = Path(__file__).parent.parent / "recipes"

_Config = TypeVar("_Config", bound=Section)


class _RecipeLoader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (PyYAML wants 1.0e-3) and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} stands here twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def find_recipe(name: str) -> Path:
    """Path of a recipe given as a file or by the name of a shipped one.

    Raises:
        ConfigError: Neither exists; the message lists the shipped recipes.
    """
    for candidate in (Path(name), RECIPES / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise ConfigError(f"no recipe {name!r}: give a YAML file or one of {shipped}")


def load_config(name: str, overrides: Sequence[str], schema: type[_Config]) -> _Config:
    """Read a recipe and apply ``key=value`` overrides.

    Args:
        name: A YAML file or the name of a shipped recipe.
        overrides: ``section.key=value``; the value is read as YAML. A list or a mapping replaces
            what the recipe holds there.
        schema: The kind of recipe expected.

    Raises:
        ConfigError: Names the key and what it may hold.
    """
    path = find_recipe(name)
    return parse_config(_resolve(read_sections(path), overrides), schema, origin=str(path))


def read_sections(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    content = _read_yaml(text, origin=str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(content).__name__}")
    return content


def parse_config(content: Mapping[str, Any], schema: type[_Config], *, origin: str) -> _Config:
    """Check a mapping against a schema; see :func:`load_config`."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(explain(problem, schema) for problem in error.errors())
        raise ConfigError(f"{origin}: {problems}") from error


def write_config(config: Section, path: Path) -> None:
    """Write the resolved configuration, every default included, as JSON.

    A crash leaves the earlier file, or none, never a part.
    """
    write_atomically(path, json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


def _read_yaml(text: str, *, origin: str) -> object:
    try:
        return yaml.load(text, _RecipeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not YAML: {error}") from error


def _resolve(content: dict[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Apply overrides, then fill in ``${section.key}``."""
    from omegaconf import OmegaConf  # late: the schema must import quickly
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.create(content)
        for override in overrides:
            key, separator, text = override.partition("=")
            if not key or not separator:
                raise ConfigError(f"override {override!r} must read key=value")
            value = _read_yaml(text, origin=f"override {override!r}: the value")
            OmegaConf.update(config, key, value, merge=False)
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        # The first line says what is wrong; the others are OmegaConf's own terms.
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, dict), "a recipe was read as a mapping"
    return {str(key): value for key, value in resolved.items()}
