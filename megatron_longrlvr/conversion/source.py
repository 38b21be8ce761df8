"""Finding the parts of a checkpoint that somebody names: weights, and what describes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.checkpoint.manifest import Manifest, latest, read_checkpoint
from megatron_longrlvr.checkpoint.weights import WEIGHTS_DIRECTORY, holds_torch_dist
from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.conversion.folder import (
    CONFIG_FILE,
    ConvertedManifest,
    read_converted_manifest,
)
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.spec import ModelSpec, read_model_spec


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSource:
    """A whole torch_dist checkpoint."""

    folder: Path
    manifest: ConvertedManifest | Manifest
    description: Path
    """Model folder with config.json and tokenizer."""

    spec: ModelSpec

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS_DIRECTORY


def find_source(path: Path, *, model: Path | None = None) -> CheckpointSource:
    """Find out what a path names.

    Args:
        path: A converted checkpoint, a ``step_...`` folder of a run or a link to one, or the run,
            whose newest checkpoint is meant.
        model: Model folder that describes a run's checkpoint; None for what its recipe started
            from.

    Raises:
        CheckpointError: There is no whole checkpoint, or nothing says which model it is of.
        ConfigError: The model is not known.
    """
    if path.is_symlink():  # such as checkpoints/best
        path = path.resolve()
    if (path / "checkpoints").is_dir():
        newest = latest(path)
        if newest is None:
            raise CheckpointError(f"{path} has no whole checkpoint")
        path = newest.directory
    if not holds_torch_dist(path):
        raise CheckpointError(
            f"{path} is no checkpoint: it has no {WEIGHTS_DIRECTORY}/.metadata; name a converted "
            "checkpoint, a run, or a step_... folder of a run"
        )
    manifest: ConvertedManifest | Manifest | None = read_converted_manifest(path)
    description = path if manifest is not None else model or _start_of_run(path)
    if manifest is None:
        manifest = read_checkpoint(path).manifest
    return CheckpointSource(
        folder=path,
        manifest=manifest,
        description=description,
        spec=read_model_spec(description),
    )


def _start_of_run(checkpoint: Path) -> Path:
    """Model folder that the recipe of a run names."""
    recipe = checkpoint.absolute().parents[1] / CONFIG_FILE
    try:
        start = json.loads(recipe.read_text(encoding="utf-8"))["model"]["path"]
    except (OSError, ValueError, KeyError, TypeError):
        start = None
    if start is not None:
        for folder in (Path(start), RECIPES / start):
            if (folder / CONFIG_FILE).is_file():
                return folder
    raise CheckpointError(
        f"{recipe} names no model folder that is here (model.path={start!r}); give it with --model"
    )
