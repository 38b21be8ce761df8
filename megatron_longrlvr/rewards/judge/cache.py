"""Verdicts that were given before, in a SQLite file that any SQLite tool opens.

    sqlite3 judge.sqlite "select verdict, answer from verdicts where question like '%river%'"

A verdict is found again by model, template version, question, references and answer. Only yes and
no are kept: what failed is asked again. Several processes of one machine may share a file.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.stages import Verdict

# Another process holds the file for the length of one insertion.
_BUSY_TIMEOUT_S = 30.0
_FORMAT = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    template TEXT NOT NULL,
    question TEXT NOT NULL,
    reference_answers TEXT NOT NULL,
    answer TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('yes', 'no')),
    votes INTEGER NOT NULL,
    judged_utc TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) WITHOUT ROWID
"""
_FIND = "SELECT verdict FROM verdicts WHERE key = ? AND votes >= ?"
# Whoever asked for more votes wins; at equal numbers the first verdict stays, for all who read it.
_STORE = """
INSERT INTO verdicts (key, model, template, question, reference_answers, answer, verdict, votes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET verdict = excluded.verdict, votes = excluded.votes
WHERE excluded.votes > verdicts.votes
"""


class VerdictCache:
    """The verdicts of one model on one template. Belongs to one thread."""

    def __init__(self, path: Path, *, model: str, template: str, votes: int) -> None:
        """Open or create a file.

        Args:
            path: Its directory is created when absent.
            model: As the recipe names it.
            template: Version of the prompt template.
            votes: Votes of a verdict; one of fewer votes does not count as found.

        Raises:
            ConfigError: The file is no cache of verdicts.
        """
        self._model = model
        self._template = template
        self._votes = votes
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            # Readers and one writer at a time; a crash of the machine may lose the last verdicts,
            # never the file.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(_TABLE)
            self._database.execute(_FIND, ("", 0))
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"rewards.judge.cache: {path} cannot hold verdicts: {error}"
            ) from error

    def find(self, query: JudgeQuery) -> Verdict | None:
        """The verdict of an earlier judgement; None where there is none."""
        row = self._database.execute(_FIND, (self._key(query), self._votes)).fetchone()
        return None if row is None else Verdict(row[0])

    def store(self, query: JudgeQuery, verdict: Verdict) -> None:
        """Keep a yes or a no."""
        row = (
            self._key(query),
            self._model,
            self._template,
            _readable(query.question),
            json.dumps([_readable(reference) for reference in query.references]),
            _readable(query.answer),
            verdict.value,
            self._votes,
        )
        self._database.execute(_STORE, row)

    def close(self) -> None:
        self._database.close()

    def _key(self, query: JudgeQuery) -> str:
        parts = [
            *(_FORMAT, self._model, self._template),
            *(query.question, list(query.references), query.answer),
        ]
        return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def _readable(text: str) -> str:
    """Text that SQLite takes: halves of surrogate pairs, which it does not, become question marks.

    The key is made of the text as it is.
    """
    return text.encode("utf-8", errors="replace").decode("utf-8")
