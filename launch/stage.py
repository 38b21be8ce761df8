"""A stage of a data pipeline: one command, run once for each shard of its input.

    name: questions
    dir: data/questions              # logs and marks of finished shards
    shards: 64
    command: [longrlvr, data, run, synthesis.yaml, --shard, "{shard}/{shards}"]

In the command ``{shard}`` stands for the number of the shard, from 0, and ``{shards}`` for how many
there are. A shard whose command ended with 0 is not run again.

    python -m launch.stage STAGE_JSON SHARD DIR

runs the command of one shard, as a task of a job, and notes in its directory that it ended well.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator

from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.trainer.run_dir import mark_finished

STAGE_STEPS = 1
"""What a shard that ended well has got to, as ``launch.supervise`` counts."""


class DataStage(Section):
    """One stage."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    dir: str = Field(pattern=r"^[A-Za-z0-9_./=+@,-]+$")
    shards: int = Field(gt=0)
    command: list[str] = Field(min_length=1)

    max_concurrent: int | None = Field(default=None, gt=0)
    """Shards that run at the same time; as many as there is room for if None."""

    @field_validator("command")
    @classmethod
    def _has_a_shard(cls, command: list[str]) -> list[str]:
        if not any(_SHARD.search(part) for part in command):
            raise ValueError("must name {shard}; every task would do the same work")
        return command

    def command_of(self, shard: int) -> list[str]:
        """The command of one shard."""
        numbers = {"shard": shard, "shards": self.shards}
        return [
            _PLACE.sub(lambda found: format(numbers[found[1]], found[2] or ""), part)
            for part in self.command
        ]


# Only these are replaced; other braces are the command's own.
_PLACE = re.compile(r"\{(shard|shards)(?::(0?\d+d))?\}")
_SHARD = re.compile(r"\{shard(?::0?\d+d)?\}")


def load_stage(name: str, overrides: Sequence[str]) -> DataStage:
    """Read a stage from a YAML file.

    Raises:
        ConfigError: Names the file and the key.
    """
    if not Path(name).is_file():
        raise ConfigError(
            f"no data stage {name!r}: give a YAML file (launch/stage.py describes it)"
        )
    return load_config(name, overrides, DataStage)


def run_shard(stage: DataStage, shard: int, folder: Path) -> int:
    """Run the command of a shard; this process ends as the command did."""
    with subprocess.Popen(stage.command_of(shard)) as process:
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        code = process.wait()
    if code == 0:
        mark_finished(folder, STAGE_STEPS)
    elif code < 0:
        # The agent tells a command that was killed from one that failed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    raise SystemExit(
        run_shard(load_config(sys.argv[1], [], DataStage), int(sys.argv[2]), Path(sys.argv[3]))
    )
