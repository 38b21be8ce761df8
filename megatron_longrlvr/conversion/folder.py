"""Writing a folder that exists only when it is whole, and what lies in it beside the weights.

    DST.partial/     being written, or left behind by a killed conversion; the next one clears it
    DST/             whole

A converted checkpoint states its files and their sizes in ``manifest.json``, written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from megatron_longrlvr.checkpoint.manifest import (
    MANIFEST_FILE,
    check_files,
    file_sizes,
    partial_directory,
    publish,
)
from megatron_longrlvr.conversion.ranks import Ranks
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.model.hf_reader import INDEX_FILE
from megatron_longrlvr.observability.provenance import (
    PROVENANCE_FILE,
    collect_provenance,
    library_versions,
    write_provenance,
)

CONFIG_FILE = "config.json"

# Configuration, tokenizer, chat template and generation settings, of whatever names.
_DESCRIPTION_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".tiktoken"}
_NOT_DESCRIPTIONS = {INDEX_FILE, MANIFEST_FILE, PROVENANCE_FILE}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedManifest:
    """What a converted checkpoint holds and what it was made from."""

    converted_from: str
    weight_bytes: int
    dtypes: tuple[str, ...]
    bytes_by_file: Mapping[str, int]
    """Sizes of all other files; names are relative to the folder, with forward slashes."""

    library_versions: Mapping[str, str]
    saved_utc: str
    """ISO 8601."""


@contextmanager
def new_folder(target: Path, *, ranks: Ranks, overwrite: bool, needed_bytes: int) -> Iterator[Path]:
    """Open a temporary folder that becomes ``target`` where the body ends well. Collective.

    A body that fails leaves no folder; one that is killed leaves ``target`` as it was.

    Args:
        target: Where the result goes.
        ranks: All of them run the body.
        overwrite: Replace a model folder or checkpoint that lies there.
        needed_bytes: Refused at once where the disk has less.

    Raises:
        CheckpointError: Something lies there that may not be replaced, or the disk is too small.
    """
    partial = partial_directory(target)
    ranks.on_first_rank(lambda: _prepare(target, partial, overwrite, needed_bytes))
    try:
        yield partial
        ranks.on_first_rank(lambda: publish(partial, target))
    except BaseException:
        if ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def description_files(folder: Path) -> tuple[Path, ...]:
    """Files of a model folder that say what the weights mean, in order of name."""
    return tuple(
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix in _DESCRIPTION_SUFFIXES
        and path.name not in _NOT_DESCRIPTIONS
    )


def copy_descriptions(source: Path, target: Path) -> None:
    """Put configuration and tokenizer of one folder beside the weights of another."""
    for path in description_files(source):
        shutil.copyfile(path, target / path.name)
    write_provenance(collect_provenance(gpu_names=()), target)


def write_converted_manifest(
    folder: Path, *, source: Path, weight_bytes: int, dtypes: tuple[str, ...]
) -> None:
    """Declare the folder's other files complete."""
    manifest = ConvertedManifest(
        converted_from=str(source),
        weight_bytes=weight_bytes,
        dtypes=dtypes,
        bytes_by_file=file_sizes(folder),
        library_versions=library_versions(),
        saved_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_atomically(folder / MANIFEST_FILE, json.dumps(asdict(manifest), indent=2) + "\n")


def read_converted_manifest(folder: Path) -> ConvertedManifest | None:
    """Manifest of a converted checkpoint whose files are all there; None where a run wrote it.

    Raises:
        CheckpointError: There is no manifest, it cannot be read, or a file is missing or has
            another size.
    """
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "converted_from" not in content:
            return None
        manifest = ConvertedManifest(**content)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; this is no whole checkpoint") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a manifest: {error}") from error
    check_files(folder, manifest.bytes_by_file)
    return manifest


def _prepare(target: Path, partial: Path, overwrite: bool, needed_bytes: int) -> None:
    if target.exists() and not _is_empty(target):
        if not overwrite:
            raise CheckpointError(f"{target} exists; choose another folder or give --overwrite")
        if not ((target / MANIFEST_FILE).exists() or (target / CONFIG_FILE).exists()):
            raise CheckpointError(
                f"{target} holds neither {MANIFEST_FILE} nor {CONFIG_FILE}: it is no checkpoint, "
                "and --overwrite does not remove it"
            )
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    free = shutil.disk_usage(partial).free
    if free < needed_bytes:
        partial.rmdir()
        raise CheckpointError(
            f"{target} needs {needed_bytes / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free"
        )


def _is_empty(target: Path) -> bool:
    return target.is_dir() and not any(target.iterdir())
