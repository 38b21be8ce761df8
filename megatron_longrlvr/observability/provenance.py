"""``provenance.json``: which code, libraries and machine made a run.

The top level describes the latest start; a resumed run keeps its earlier starts beside it, since
another commit or machine may have made the first steps.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from megatron_longrlvr import __version__
from megatron_longrlvr.files import write_atomically

PROVENANCE_FILE = "provenance.json"

LIBRARIES = (
    "torch",
    "megatron-core",
    "transformers",
    "transformer-engine",
    "vllm",
    "nemo-aligner",
    "nemo-toolkit",
    "numpy",
    "pydantic",
    "safetensors",
)

_PACKAGE_DIR = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The checkout that the code was imported from."""

    commit: str
    is_dirty: bool
    """Tracked files differ from the commit, or untracked files lie beside them."""

    diff_sha256: str | None
    """Of ``git diff HEAD``; None where no tracked file differs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """One start of a run."""

    started_utc: str
    """ISO 8601, whole seconds."""

    command: Sequence[str]
    package_version: str
    git: GitState | None
    """None outside a checkout."""

    python_version: str
    library_versions: dict[str, str]
    """Of the :data:`LIBRARIES` that are installed."""

    host: str
    platform: str
    num_cpus: int
    """Usable by this process."""

    gpu_names: Sequence[str]
    """Empty on a machine without; a name per device otherwise."""


def collect_provenance(
    *, gpu_names: Sequence[str], command: Sequence[str] | None = None
) -> Provenance:
    """Look at the machine and the checkout; imports no library to learn its version.

    Args:
        gpu_names: From the caller, who has a device library loaded anyway.
        command: Defaults to the command line of this process.
    """
    return Provenance(
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        command=list(sys.argv if command is None else command),
        package_version=__version__,
        git=read_git_state(_PACKAGE_DIR),
        python_version=platform.python_version(),
        library_versions=library_versions(),
        host=platform.node(),
        platform=platform.platform(),
        num_cpus=len(os.sched_getaffinity(0)),
        gpu_names=list(gpu_names),
    )


def write_provenance(provenance: Provenance, run_dir: Path) -> Path:
    """Write the start of a run; earlier starts in the same directory are kept.

    Raises:
        ValueError: The file is there but is not JSON.
    """
    path = run_dir / PROVENANCE_FILE
    earlier = _earlier_starts(path)
    content = asdict(provenance) | {"earlier_starts": earlier}
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    return path


def read_git_state(directory: Path) -> GitState | None:
    """State of the checkout that tracks ``directory``; None where no checkout does.

    A package installed into another project's environment lies inside that project's checkout
    without being tracked by it.
    """
    if not _git(directory, "ls-files", "--", "."):
        return None
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _git(directory, "diff", "HEAD")
    return GitState(
        commit=commit.decode().strip(),
        is_dirty=bool(_git(directory, "status", "--porcelain")),
        diff_sha256=hashlib.sha256(diff).hexdigest() if diff else None,
    )


def _git(directory: Path, *arguments: str) -> bytes | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, check=False
        )
    except FileNotFoundError:  # git is not installed
        return None
    return result.stdout if result.returncode == 0 else None


def record_header(
    what: str, *, note: str = "", more_libraries: Sequence[str] = ()
) -> dict[str, Any]:
    """What opens the record of a measurement: what was measured, on which code and machine.

    Args:
        what: In one sentence, with the unit.
        note: Circumstances, behind the description of the machine.
        more_libraries: Whose versions matter beside those of :data:`LIBRARIES`.
    """
    git = read_git_state(_PACKAGE_DIR)
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    return {
        "what": what,
        "commit": None if git is None else git.commit,
        "machine": f"{machine}, {note}" if note else machine,
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **library_versions([*LIBRARIES, *more_libraries]),
        },
    }


def library_versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of those libraries that are installed, without importing them."""
    versions = {}
    for library in libraries:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _earlier_starts(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        latest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return [*latest.pop("earlier_starts", []), latest]
