"""Results of single items, kept as soon as they are there, in a SQLite file that any tool opens.

A process that is killed loses what it was working on and nothing else: the next start finds the
rest by the hash of what it was made from. Replies of models stay for good, since they cost money;
what can be computed again is removed when its stage is done.

    sqlite3 kept/08-generate.sqlite "select item, value from results limit 3"
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_longrlvr.errors import DataError

_TABLE = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, item TEXT NOT NULL, value NOT NULL
) WITHOUT ROWID
"""

Part = str | int | float | bool | None | Sequence["Part"] | Mapping[str, "Part"]


def hash_of(*parts: Part) -> str:
    """A key for whatever depends on these parts and on nothing else."""
    # ASCII, because halves of surrogate pairs have no other encoding.
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("ascii")).hexdigest()


class KeptResults:
    """The results of one stage, held by one process."""

    def __init__(self, path: Path) -> None:
        """Open or create a file; its directory is created when absent.

        Raises:
            DataError: Another process works with it, or it is something else.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._database = sqlite3.connect(path, timeout=0.0, isolation_level=None)
            # One process alone: no shared memory is needed, so network file systems will do.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            # A crash of the machine may lose the last results, never the file.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(_TABLE)
        except sqlite3.OperationalError as error:
            raise DataError(f"{path} is held by another process: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} cannot hold results: {error}") from error

    def find(self, key: str) -> bytes | str | None:
        """What was stored; None where nothing was."""
        row = self._database.execute("SELECT value FROM results WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def store(self, key: str, value: bytes | str, *, item: str) -> None:
        """Keep a result; one that is there already stays.

        Args:
            key: See :func:`hash_of`.
            value: Text for people to read, bytes otherwise.
            item: What it belongs to, for people.
        """
        self._database.execute(
            "INSERT OR IGNORE INTO results (key, item, value) VALUES (?, ?, ?)", (key, item, value)
        )

    def close(self) -> None:
        self._database.close()

    def remove(self) -> None:
        """Close, and delete the file."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
