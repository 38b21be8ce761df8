"""A data stage runs its command for each shard once, and ends as the command did."""

import json
import signal
import subprocess
import sys

import pytest

from launch.requeue import is_finished
from launch.stage import STAGE_STEPS, DataStage, load_stage
from megatron_longrlvr.errors import ConfigError

STAGE = DataStage(
    name="words",
    dir="words",
    shards=12,
    command=["cut", "-f{shard}", "in/{shard:03d}-of-{shards}", "{other} {shard:x}"],
)


def test_numbers_of_the_shard_are_filled_in_and_nothing_else():
    assert STAGE.command_of(7) == ["cut", "-f7", "in/007-of-12", "{other} {shard:x}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"command": ["sort", "all"]}, "must name {shard}", id="no-shard"),
        pytest.param({"shards": 0}, "shards=0", id="none"),
        pytest.param({"shard": 3}, "did you mean 'shards'", id="typo"),
        pytest.param({"dir": "a b"}, "dir='a b'", id="space"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(tmp_path, content, message):
    path = tmp_path / "stage.yaml"
    path.write_text(json.dumps({**STAGE.model_dump(), **content}))
    with pytest.raises(ConfigError) as caught:
        load_stage(str(path), [])
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"no data stage 'nope\.yaml': give a YAML file"):
        load_stage("nope.yaml", [])


def run_shard(tmp_path, program):
    stage = tmp_path / "stage.json"
    command = [sys.executable, "-c", program, "{shard}"]
    stage.write_text(STAGE.model_copy(update={"command": command}).model_dump_json())
    return subprocess.run(
        [sys.executable, "-m", "launch.stage", str(stage), "3", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_shard_that_ended_well_is_finished(tmp_path):
    ended = run_shard(tmp_path, "import sys; print('shard', sys.argv[1])")
    assert (ended.returncode, ended.stdout) == (0, "shard 3\n")
    assert is_finished(tmp_path, STAGE_STEPS)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        pytest.param("raise SystemExit(3)", 3, id="failed"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, id="killed"),
        pytest.param("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, id="terminated"),
    ],
)
def test_shard_ends_as_its_command_did_and_is_not_finished(tmp_path, program, code):
    assert run_shard(tmp_path, program).returncode == code
    assert not is_finished(tmp_path, STAGE_STEPS)
