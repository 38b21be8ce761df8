"""A checkpoint's writer that is killed, as it is where memory runs out, costs the run nothing.

Promise: whichever rank's writer is killed, the policy's or the critic's, the checkpoint is made
again while training waits, and the run ends as if nothing had happened; killed again, the run ends
with the reason and leaves the checkpoint before. Not covered: memory that does run out.
"""

import logging
import os
import signal
from dataclasses import dataclass
from unittest import mock

import pytest

from megatron_longrlvr.checkpoint import background, sharded
from megatron_longrlvr.checkpoint.manifest import list_checkpoints
from megatron_longrlvr.checkpoint.store import find_intact
from megatron_longrlvr.errors import CheckpointWriterKilled
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.trainer.session import run_training
from tests.support.killed_runs import records
from tests.support.runs import toy_config

PPO = {
    "algorithm__advantage": "gae",
    "algorithm__drop_uninformative_groups": False,
    "critic": {"optimizer": {"lr": 0.001}, "lam": 0.9},
}


@dataclass(frozen=True)
class Kill:
    """Of the writers of one rank; ``times`` are those of one step's checkpoint that are killed."""

    step: int
    rank: int = 0
    network: str = "learner"
    times: int = 1

    @property
    def hashes(self):
        return f"step_{self.step:06d}.partial/hashes/{self.network}_{self.rank:05d}.json"


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


class Writes(background.BackgroundWrite):
    """Found written, or lost, when the run asks for the first time."""

    is_written = property(lambda self: self._process is None or self._process.join() is None)


def run(rank, world_size, config, kill=None):  # noqa: ARG001
    """Exit code, what was logged and what was raised."""
    original, times = background._write, iter(range(kill.times if kill else 0))
    heard, raised = Heard(), ""

    def begin(request, hashes, **options):
        is_hit = kill is not None and str(hashes).endswith(kill.hashes)
        is_killed = is_hit and next(times, None) is not None
        with mock.patch.object(background, "_write", die if is_killed else original):
            return Writes(request, hashes, **options)

    log = logging.getLogger("megatron_longrlvr")
    log.addHandler(heard)
    try:
        with mock.patch.object(sharded, "BackgroundWrite", begin):
            code = run_training(config)
    except CheckpointWriterKilled as error:
        code, raised = error.EXIT_CODE, str(error)
    finally:
        log.removeHandler(heard)
    return code, heard.messages, raised


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def config(run_dir, **changes):
    return toy_config(run_dir, trainer__keep_checkpoints=5, **changes)


def saved_steps(run_dir):
    return [checkpoint.manifest.step for checkpoint in list_checkpoints(run_dir)]


def intact_step(rank, world_size, run_dir):  # noqa: ARG001
    groups = start_process_groups(ParallelLayout(world_size=world_size), seed=1)
    return find_intact(run_dir, groups).manifest.step


@pytest.fixture(scope="module")
def straight(pool2, tmp_path_factory):
    """Records of a run whose writers live."""
    base = tmp_path_factory.mktemp("straight")
    pool2.run(run, config(base))
    return records(base)


@pytest.mark.parametrize("rank", [0, 1])
def test_lost_checkpoint_is_made_again_after_the_step_in_progress(pool2, tmp_path, straight, rank):
    (code, said, _), (_, others, _) = pool2.run(run, config(tmp_path), Kill(step=2, rank=rank))
    assert code == 0
    lost = f"lost and will be made again: rank {rank}: the process that wrote the checkpoint was"
    assert lost in "".join(said)
    assert not any("lost" in one for one in others)  # told once
    assert saved_steps(tmp_path) == [3, 4]
    assert pool2.run(intact_step, tmp_path) == [4, 4]
    assert records(tmp_path) == straight


@pytest.mark.parametrize("network", ["learner", "critic"])
def test_lost_checkpoint_of_the_last_step_is_made_again_at_once(pool2, tmp_path, network):
    settings = config(tmp_path, **PPO)
    kill = Kill(step=4, rank=1, network=network)
    assert [code for code, *_ in pool2.run(run, settings, kill)] == [0, 0]
    assert saved_steps(tmp_path) == [2, 4]
    assert pool2.run(intact_step, tmp_path) == [4, 4]


def test_writer_killed_again_ends_the_run_with_the_reason(pool2, tmp_path):
    ends = pool2.run(run, config(tmp_path), Kill(step=4, rank=1, times=2))
    for code, _, raised in ends:
        assert code == 74
        assert raised.startswith("rank 1: the process that wrote the checkpoint was killed")
    assert saved_steps(tmp_path) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000002"]
    assert [code for code, *_ in pool2.run(run, config(tmp_path))] == [0, 0]
    assert saved_steps(tmp_path) == [2, 4]
