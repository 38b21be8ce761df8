"""A save that finds no space says so on every rank and leaves the earlier checkpoint as it was.

The disk is full for a rank when files may not grow beyond a limit. Not covered: a disk that is full
before the first rank's common.pt.
"""

import re
import resource
from unittest import mock

import pytest
import torch

from megatron_longrlvr.checkpoint.manifest import (
    checkpoint_directory,
    list_checkpoints,
    partial_directory,
)
from megatron_longrlvr.errors import CheckpointError
from tests.distributed.test_checkpoint import (
    STEPS_BEFORE,
    build_learner,
    layout_of,
    position,
    save_only,
    train,
)
from tests.support.tiny_models import save_tiny_model


@pytest.fixture
def saved(pool2, tmp_path):
    """A model folder and a run with one checkpoint, saved by two data-parallel ranks."""
    folder, run_dir = tmp_path / "model", tmp_path / "run"
    save_tiny_model(folder, "qwen3")
    pool2.run(save_only, layout_of("dp2"), folder, run_dir, {})
    return folder, run_dir


# Enough for the small files of a checkpoint and not for its weights.
FILE_LIMIT_BYTES = 32 * 1024
# Not even for those.
TINY_LIMIT_BYTES = 1024


def fail_then_save(rank, _world_size, folder, run_dir, limited_ranks, limit_bytes):
    """Listed steps after a save that runs out of space, and after another attempt."""
    from megatron_longrlvr.checkpoint.store import save_checkpoint

    learner = build_learner(layout_of("tp2-sp"), folder)
    train(learner, 0, STEPS_BEFORE + 1)
    directory = checkpoint_directory(run_dir, STEPS_BEFORE + 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank in limited_ranks:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(directory, learner, position(learner), config_fingerprint="abc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after_failure = [checkpoint.manifest.step for checkpoint in list_checkpoints(run_dir)]
    torch.distributed.barrier()
    save_checkpoint(directory, learner, position(learner), config_fingerprint="abc")
    return str(caught.value), after_failure


@pytest.mark.parametrize("limited_ranks", [(0,), (1,), (0, 1)], ids=str)
def test_save_that_finds_no_space_leaves_the_earlier_checkpoint(pool2, saved, limited_ranks):
    folder, run_dir = saved
    results = pool2.run(fail_then_save, folder, run_dir, limited_ranks, FILE_LIMIT_BYTES)
    directory = checkpoint_directory(run_dir, STEPS_BEFORE + 1)
    for text, after_failure in results:
        assert str(partial_directory(directory)) in text
        assert "GiB free there" in text
        assert after_failure == [STEPS_BEFORE]
    # The first rank has everybody's reasons; torch's writer turns "File too large" into the first,
    # which megatron-core 0.19 prints and names by its type.
    causes = ("unexpected pos", "caught while starting worker")
    assert any(cause in results[0][0] for cause in causes)
    steps = [checkpoint.manifest.step for checkpoint in list_checkpoints(run_dir)]
    assert steps == [STEPS_BEFORE, STEPS_BEFORE + 1]
    assert not partial_directory(directory).exists()


def save_on_a_full_disk(_rank, _world_size, folder, run_dir):
    from megatron_longrlvr.checkpoint import sharded
    from megatron_longrlvr.checkpoint.store import save_checkpoint

    learner = build_learner(layout_of("dp2"), folder)
    train(learner, 0, STEPS_BEFORE + 1)
    directory = checkpoint_directory(run_dir, STEPS_BEFORE + 1)
    usage = mock.Mock(return_value=mock.Mock(free=1000))
    with (
        mock.patch.object(sharded.shutil, "disk_usage", usage),
        pytest.raises(CheckpointError) as no,
    ):
        save_checkpoint(directory, learner, position(learner), config_fingerprint="abc")
    weights = list((partial_directory(directory) / "learner").iterdir())
    return str(no.value), weights


def test_room_is_looked_for_before_weights_are_written(pool2, saved):
    folder, run_dir = saved
    for text, weights in pool2.run(save_on_a_full_disk, folder, run_dir):
        assert re.search(r"needs 0\.\d\d GiB and the disk has 0\.00 GiB free; make room", text)
        assert weights == []


def test_save_that_finds_no_space_for_its_small_files_fails_on_every_rank(pool2, saved):
    folder, run_dir = saved
    results = pool2.run(fail_then_save, folder, run_dir, (1,), TINY_LIMIT_BYTES)
    for text, after_failure in results:
        assert text.startswith("rank 1: cannot write ")
        assert "random/rank_00001.safetensors" in text
        assert after_failure == [STEPS_BEFORE]
