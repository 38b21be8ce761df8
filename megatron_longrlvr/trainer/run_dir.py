"""The run directory: who owns it, whether it is finished, and where things lie in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.checkpoint import manifest
from megatron_longrlvr.checkpoint.run_state import RunState
from megatron_longrlvr.config.load import write_config
from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.observability.metric_log import METRICS_FILE

CONFIG_FILE = "config.json"
FINISHED_FILE = "finished.json"

PROMPTS_DIGEST = "prompts_digest"
"""Key of a run state: which prompts the run has."""

# What a run leaves behind once it has been put together; `random` is what sft starts from.
_TRACES = (METRICS_FILE, "checkpoints", "random")

# The ranks of a run that was killed may need a moment to end.
_HOLD_WAIT_S = 10.0
_HOLD_POLL_S = 0.2

_log = logging.getLogger(__name__)

# Settings that may differ between the starts of one run: where it lies, how long it goes on, what
# it writes on the way, and by which way verdicts and samples come. Everything else is the run's
# identity.
_MAY_CHANGE = frozenset(
    {
        *("run.dir", "run.name", "trainer", "layout", "alarms"),
        *(f"rewards.judge.{name}" for name in ("endpoints", "retry", "breaker", "outage", "cache")),
        *(
            f"rollout.server.{name}"
            for name in RolloutServerConfig.model_fields
            if name != "in_flight_updates"  # decides what weights a sample is written with
        ),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDir:
    """A directory that belongs to one configuration."""

    path: Path
    is_new: bool
    """No earlier start has written here."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def is_finished(self, steps: int) -> bool:
        """Whether an earlier start got to ``steps``."""
        return finished_steps(self.path) >= steps

    def mark_finished(self, steps: int) -> None:
        """Record that the run got to its last step."""
        mark_finished(self.path, steps)


def finished_steps(path: Path) -> int:
    """Steps of the run that was finished in a directory; 0 where none was."""
    finished = path / FINISHED_FILE
    if not finished.is_file():
        return 0
    try:
        return int(json.loads(finished.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        # Going on from the last checkpoint costs little where the run is finished after all.
        _log.warning("%s says nothing, so the run goes on: %r", finished, error)
        return 0


def mark_finished(path: Path, steps: int) -> None:
    """Record that the run in a directory got to its last step."""
    write_atomically(path / FINISHED_FILE, json.dumps({"steps": steps}) + "\n")


def claim_run_dir(config: Section, path: Path, *, may_write: bool) -> RunDir:
    """Take a directory for a run, or find the run in it again.

    Args:
        config: Resolved configuration.
        path: The directory.
        may_write: Whether to create it and write ``config.json``; one rank does.

    Raises:
        ConfigError: Another run lies there, with the settings that differ; or the directory cannot
            be written to.
    """
    existing = path / CONFIG_FILE
    is_new = not existing.is_file()
    if not is_new and _has_begun(path):
        differing = differing_keys(_read_config(existing), config.model_dump(mode="json"))
        if differing:
            more = [f"and {len(differing) - 6} more"] if len(differing) > 6 else []
            shown = "; ".join([*differing[:6], *more])
            raise ConfigError(f"run.dir={path} holds another run: {shown}; choose another run.dir")
    if may_write:
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_config(config, existing)
        except OSError as error:
            raise ConfigError(f"run.dir={path} cannot be written to: {error}") from error
    return RunDir(path=path, is_new=is_new)


def check_prompts(saved: RunState, digest: str, *, checkpoint: Path) -> None:
    """Refuse to go on with other prompts than the run has had.

    Args:
        saved: Of the checkpoint.
        digest: Of the prompts there are now.
        checkpoint: For the message.

    Raises:
        ConfigError: The files have changed.
    """
    before = saved.extra.get(PROMPTS_DIGEST, digest)  # checkpoints of old do not tell
    if before != digest:
        raise ConfigError(
            f"data.train.paths hold other prompts than when {checkpoint} was saved; put the files "
            "back, or choose another run.dir"
        )


def _has_begun(path: Path) -> bool:
    """Whether something depends on the configuration: a start may have found it wrong at once."""
    return any((path / name).exists() for name in _TRACES)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read, so nobody knows whose run lies there: {error}; put it back, "
            "or choose another run.dir"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content


@contextmanager
def hold_run_dir(path: Path, *, wait_s: float = _HOLD_WAIT_S) -> Iterator[None]:
    """Keep other processes of this machine from a run's directory for the length of the block.

    The lock lies on the machine's own disk, where it ends with its process: one on a shared file
    system may outlive a lost node, and with it keep the run from going on elsewhere.

    Args:
        path: The directory; need not exist.
        wait_s: For a process that is about to end.

    Raises:
        ConfigError: Another process of this machine has the directory.
    """
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"longrlvr-{os.getuid()}-run-{digest}"
    # Not flock: a child that outlives its parent for a moment would keep it.
    with lock.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise ConfigError(
                        f"run.dir={path} is in use by process {file.read().strip()} of this "
                        "machine; wait for its end, or choose another run.dir"
                    ) from None
            time.sleep(_HOLD_POLL_S)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def fingerprint(config: Section) -> str:
    """Hash of the settings that make up a run's identity."""
    identity = {
        key: value
        for key, value in _flatten(config.model_dump(mode="json")).items()
        if not _may_change(key)
    }
    return manifest.fingerprint(identity)


def differing_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """``key: before -> now`` for every setting of the run's identity that differs."""
    old, new = _flatten(before), _flatten(now)
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not _may_change(key)
    ]


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _MAY_CHANGE)


def _flatten(content: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - JSON
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat
