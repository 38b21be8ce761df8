"""``outputs.jsonl`` of a benchmark run: appended question by question, so that a run can go on.

A question's samples are written at once and forced to disk. After a crash the last question may be
there in part: reading drops it, and it is asked again. ``benchmark.json`` beside the file says what
was asked; outputs of other settings are never mixed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.errors import ConfigError, DataError
from megatron_longrlvr.files import write_atomically

OUTPUTS_FILE = "outputs.jsonl"
SETTINGS_FILE = "benchmark.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputsFile:
    """The outputs of one benchmark run."""

    folder: Path
    samples_per_question: int

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / OUTPUTS_FILE

    def open(self, settings: Mapping[str, object]) -> frozenset[str]:
        """Create the folder, or check that it belongs to these settings; drop what is incomplete.

        Returns:
            Ids of the prompts whose samples are all there.

        Raises:
            ConfigError: The folder belongs to a run with other settings.
            DataError: A line is not what this class writes.
        """
        self._check(settings)
        if not self.path.exists():
            return frozenset()
        lines = self._whole_lines()
        counts = Counter(prompt_id for prompt_id, _ in lines)
        done = frozenset(
            prompt_id for prompt_id, count in counts.items() if count == self.samples_per_question
        )
        kept = [line for prompt_id, line in lines if prompt_id in done]
        write_atomically(self.path, "".join(f"{line}\n" for line in kept))
        return done

    def append(self, prompt_id: str, samples: Sequence[Mapping[str, object]]) -> None:
        """Add all samples of a question."""
        # ASCII, because a tokenizer can decode to halves of surrogate pairs, which no file takes.
        text = "".join(json.dumps({"prompt_id": prompt_id, **one}) + "\n" for one in samples)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _check(self, settings: Mapping[str, object]) -> None:
        path = self.folder / SETTINGS_FILE
        wanted = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") != wanted:
            raise ConfigError(f"{self.folder} holds outputs of other settings, see {path}")
        if not path.exists():
            write_atomically(path, wanted)

    def _whole_lines(self) -> list[tuple[str, str]]:
        # What follows the last line end is the beginning of a line that was never finished.
        # What is no UTF-8 was not written here, and its line is refused with its number.
        lines = self.path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
        return [(self._prompt_id(line, number), line) for number, line in enumerate(lines, 1)]

    def _prompt_id(self, line: str, number: int) -> str:
        try:
            content: Any = json.loads(line.encode("utf-8"))
            return str(content["prompt_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path}:{number}: not an output of this command") from error
