"""Where a recipe's model lies."""

from __future__ import annotations

from pathlib import Path

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.errors import ConfigError


def model_folder(path: str) -> Path:
    """Folder that ``model.path`` names: in the working directory, or shipped with the package.

    Raises:
        ConfigError: There is no such folder.
    """
    for folder in (Path(path), RECIPES / path):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigError(f"model.path={path!r} is no model folder: it holds no config.json")
