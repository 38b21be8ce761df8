"""Read a recipe: YAML file, dotted overrides, typed result.

Every complaint names the dotted key, what was given and what would have been accepted; an
unknown key comes with the nearest known one.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from megatron_longrlvr.config.section import Section
from megatron_longrlvr.errors import ConfigError

RECIPES = Path(__file__).parent.parent / "recipes"

_Config = TypeVar("_Config", bound=Section)


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
        overrides: ``section.key=value``; the value is read as YAML.
        schema: The kind of recipe expected.

    Raises:
        ConfigError: Names the key and what it may hold.
    """
    path = find_recipe(name)
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(content).__name__}")
    return parse_config(_apply_overrides(content, overrides), schema, origin=str(path))


def parse_config(content: Mapping[str, Any], schema: type[_Config], *, origin: str) -> _Config:
    """Check a mapping against a schema; see :func:`load_config`."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, schema) for problem in error.errors())
        raise ConfigError(f"{origin}: {problems}") from error


def write_config(config: Section, path: Path) -> None:
    """Write the resolved configuration, every default included, as JSON."""
    path.write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


def _apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    # OmegaConf costs a fifth of a second to import; a plain recipe does without.
    if not overrides:
        return content
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"override {override!r} must read key=value")
    try:
        merged = OmegaConf.merge(OmegaConf.create(content), OmegaConf.from_dotlist(list(overrides)))
        resolved = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"overrides {list(overrides)} do not fit the recipe: {error}") from error
    assert isinstance(resolved, dict), "a merge of mappings is a mapping"
    return {str(key): value for key, value in resolved.items()}


def _explain(problem: Mapping[str, Any], schema: type[Section]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(schema, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {key!r}; {hint}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}={problem['input']!r}: {problem['msg']}"


def _known_keys(schema: type[BaseModel], location: Iterable[str]) -> list[str]:
    candidates: list[type[BaseModel]] = [schema]
    for name in location:
        fields = [model.model_fields[name] for model in candidates if name in model.model_fields]
        # A discriminated union puts the tag into the location; it names no field.
        if fields:
            candidates = [model for field in fields for model in _models_in(field.annotation)]
    return [name for model in candidates for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - any type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
