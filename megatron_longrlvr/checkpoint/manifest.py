"""Which checkpoints of a run are whole: names, the manifest, listing and removal. No torch.

    run/checkpoints/step_000120/           whole, when manifest.json is in it and its files fit
    run/checkpoints/step_000130.partial/   being written, or left behind by a killed save
    run/checkpoints/best                   link to the best one, where the recipe says what is best

A save writes into the ``.partial`` directory, its manifest last, and then renames the directory,
so that a crash at any moment leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.files import write_atomically

MANIFEST_FILE = "manifest.json"
BEST_LINK = "best"

_NAME = re.compile(r"step_(\d+)")
_LEFTOVER_NAME = re.compile(r"step_(\d+)\.(partial|replaced)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a checkpoint holds and what made it."""

    step: int
    """Training steps done."""

    policy_version: int
    layout: Mapping[str, int]
    """Fields of the ParallelLayout that saved it."""

    dtype: str
    """``model.dtype`` of the recipe."""

    is_optimizer_distributed: bool
    """``optimizer.distributed`` of the recipe: the two kinds of state do not fit each other."""

    config_fingerprint: str
    """:func:`fingerprint` of the recipe."""

    bytes_by_file: Mapping[str, int]
    """Sizes of all other files; names are relative to the directory, with forward slashes."""

    sha256_by_file: Mapping[str, str] = field(default_factory=dict)
    """Of the same files; empty where nobody computed them."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Held-out metrics of this very policy; empty where it was not measured."""

    library_versions: Mapping[str, str]
    saved_utc: str
    """ISO 8601."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A directory that was found whole."""

    directory: Path
    manifest: Manifest


def fingerprint(config: Mapping[str, object]) -> str:
    """Hash of a recipe as plain JSON values; the order of keys does not matter."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint_directory(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` training steps lies."""
    # Six digits keep a listing in order; larger numbers still work, steps are compared as numbers.
    return run_dir / "checkpoints" / f"step_{step:06d}"


def partial_directory(directory: Path) -> Path:
    """Where that checkpoint lies while it is being written."""
    return directory.with_name(f"{directory.name}.partial")


def replaced_directory(directory: Path) -> Path:
    """Where an older directory of the same step goes for the moment of its replacement."""
    return directory.with_name(f"{directory.name}.replaced")


def file_sizes(directory: Path) -> dict[str, int]:
    """Bytes of every file below ``directory`` except the manifest."""
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST_FILE
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Declare the directory's other files complete."""
    write_atomically(directory / MANIFEST_FILE, json.dumps(asdict(manifest), indent=2) + "\n")


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read the manifest and hold the files against it.

    Raises:
        CheckpointError: There is no readable manifest, or a file is missing or has another size;
            names it.
    """
    manifest = _read_manifest(directory / MANIFEST_FILE)
    check_files(directory, manifest.bytes_by_file)
    return Checkpoint(directory=directory, manifest=manifest)


def check_files(directory: Path, bytes_by_file: Mapping[str, int]) -> None:
    """Hold the files of a directory against the sizes that its manifest states.

    Raises:
        CheckpointError: A file is missing or has another size; names it.
    """
    for name, size in bytes_by_file.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; the checkpoint is damaged")
        if (found := path.stat().st_size) != size:
            raise CheckpointError(
                f"{path} has {found} bytes instead of {size}; the checkpoint is damaged"
            )


def check_hashes(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """Hold some files of a checkpoint against their hashes; files without one pass.

    Raises:
        CheckpointError: The contents of a file have changed, or it cannot be read; names it.
    """
    for name in names:
        expected = checkpoint.manifest.sha256_by_file.get(name)
        path = checkpoint.directory / name
        try:
            is_well = expected is None or sha256(path) == expected
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        if not is_well:
            raise CheckpointError(f"{path} has changed since it was saved; its SHA-256 is another")


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(partial: Path, directory: Path) -> None:
    """Give a finished directory its name; an older one of that name goes at the last moment."""
    replaced = replaced_directory(directory)
    if replaced.exists():
        _remove(replaced)
    if directory.exists():
        directory.rename(replaced)
    partial.rename(directory)
    # The new names must survive a power failure before anybody removes an older checkpoint.
    parent = os.open(directory.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
    if replaced.is_symlink():
        replaced.unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def list_checkpoints(run_dir: Path) -> tuple[Checkpoint, ...]:
    """Whole checkpoints of a run, newest last; the others are named in a warning and skipped."""
    for path in _leftovers(run_dir):
        _log.warning("skipping %s: the save that wrote it did not finish", path)
    whole = []
    for path in _directories(run_dir):
        try:
            whole.append(read_checkpoint(path))
        except CheckpointError as error:
            _log.warning("skipping checkpoint %s: %s", path, error)
    return tuple(whole)


def latest(run_dir: Path) -> Checkpoint | None:
    """The newest whole checkpoint; None for a run without one."""
    whole = list_checkpoints(run_dir)
    return whole[-1] if whole else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """Which checkpoint counts as the best one."""

    metric: str
    is_largest: bool

    def of(self, checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
        """The best of those that were measured; among equals the newest."""
        measured = [
            one
            for one in checkpoints
            if math.isfinite(one.manifest.metrics.get(self.metric, math.nan))
        ]
        sign = 1 if self.is_largest else -1
        return max(
            measured,
            key=lambda one: (sign * one.manifest.metrics[self.metric], one.manifest.step),
            default=None,
        )


def prune(
    run_dir: Path, keep: int, best: Best | None = None, *, last_step: int | None = None
) -> None:
    """Remove all but the ``keep`` newest whole checkpoints, and the best one.

    ``checkpoints/best`` is a link to the latter. What killed saves and removals left behind goes
    too, up to the newest whole step. A directory whose manifest speaks of other files than it holds
    stays: somebody damaged it, and may want to look.

    Args:
        run_dir: The run's directory.
        keep: How many.
        best: Which one counts as the best.
        last_step: Where the run is. Later checkpoints are damaged ones that it was not resumed
            from: they take no place of another one, and stay.

    Raises:
        ValueError: ``keep`` is not positive.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} must be at least 1; a run resumes from its newest one")
    whole = [
        checkpoint
        for checkpoint in list_checkpoints(run_dir)
        if last_step is None or checkpoint.manifest.step <= last_step
    ]
    if not whole:
        return
    kept = best.of(whole) if best is not None else None
    if kept is not None:
        _link(run_dir / "checkpoints" / BEST_LINK, kept.directory)
    for checkpoint in whole[:-keep]:
        if checkpoint is not kept:
            _remove(checkpoint.directory)
    newest = whole[-1].manifest.step
    unfinished = [path for path in _directories(run_dir) if not (path / MANIFEST_FILE).exists()]
    for path in [*_leftovers(run_dir), *unfinished]:
        if _step_of(path) <= newest:
            _remove(path)


def _link(link: Path, directory: Path) -> None:
    """Have a link point to a directory beside it; at no moment is there none."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(directory.name)
    fresh.replace(link)


def _remove(directory: Path) -> None:
    if directory.is_symlink():  # what it points to was put elsewhere on purpose
        directory.unlink()
        return
    # The manifest first: a removal that is cut short must not leave a checkpoint that looks whole.
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(directory)


def _directories(run_dir: Path) -> list[Path]:
    return sorted(_matching(run_dir, _NAME), key=_step_of)


def _leftovers(run_dir: Path) -> list[Path]:
    return sorted(_matching(run_dir, _LEFTOVER_NAME), key=_step_of)


def _matching(run_dir: Path, name: re.Pattern[str]) -> Iterator[Path]:
    parent = run_dir / "checkpoints"
    if parent.is_dir():
        yield from (
            path for path in parent.iterdir() if name.fullmatch(path.name) and path.is_dir()
        )


def _step_of(path: Path) -> int:
    return int(path.name.partition("_")[2].partition(".")[0])


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; its save did not finish") from None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a manifest: {error}") from error
    for name in ("layout", "bytes_by_file", "sha256_by_file", "metrics"):
        if not isinstance(getattr(manifest, name), dict):
            raise CheckpointError(f"{path} is not a manifest: {name} is no object")
    if manifest.step != _step_of(path.parent):
        raise CheckpointError(f"{path} is about step {manifest.step}, unlike its directory")
    return manifest
