"""What a recipe's model is, also before it was downloaded.

``architectures/`` holds the public settings of the models that the shipped recipes name, so that
they can be planned and built without weights. A folder that exists is always read instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.spec import (
    ModelSpec,
    read_critic_spec,
    read_model_spec,
    spec_from_hf_config,
)

_SHIPPED = Path(__file__).parent / "architectures"


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """A model's architecture and where it was read."""

    spec: ModelSpec
    origin: str
    """For a reader."""

    folder: Path | None
    """Of the model itself; None where only its architecture is known."""


def find_architecture(path: str) -> FoundModel:
    """Read the architecture that ``model.path`` names.

    Args:
        path: A model folder, or one that is yet to be downloaded and whose last part is the name
            of a known model.

    Raises:
        ConfigError: Neither the folder nor such a model exists, or it is not supported.
    """
    folder = _folder(path)
    if folder is not None:
        return FoundModel(
            spec=read_model_spec(folder), origin=str(folder / "config.json"), folder=folder
        )
    shipped = _shipped(path, key="model.path")
    return FoundModel(
        spec=spec_from_hf_config(shipped),
        origin=f"published architecture of {shipped.stem} ({path} is not there)",
        folder=None,
    )


def find_critic_architecture(path: str) -> ModelSpec:
    """Read the architecture that ``critic.path`` names: of a language model or a reward model.

    Raises:
        ConfigError: As :func:`find_architecture`.
    """
    folder = _folder(path)
    if folder is not None:
        return read_critic_spec(folder)
    return spec_from_hf_config(_shipped(path, key="critic.path"))


def _folder(path: str) -> Path | None:
    folders = (Path(path), RECIPES / path)
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _shipped(path: str, *, key: str) -> Path:
    shipped = _SHIPPED / f"{Path(path).name}.json"
    if not shipped.is_file():
        known = ", ".join(sorted(file.stem for file in _SHIPPED.glob("*.json")))
        raise ConfigError(
            f"{key}={path!r} holds no config.json, and its last part is none of the models "
            f"whose architecture is known: {known}"
        )
    return shipped
