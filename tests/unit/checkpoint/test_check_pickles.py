"""A checkpoint of somebody else's cannot run code through the files that are read with pickle."""

import os
import pickle

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from megatron_longrlvr.checkpoint.weights import check_pickles
from megatron_longrlvr.errors import CheckpointError


class Attack:
    """Runs a command where it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "learner"
    path.mkdir()
    index = Metadata(state_dict_metadata={}, planner_data={}, storage_data={})
    (path / ".metadata").write_bytes(pickle.dumps(index))
    torch.save({"optimizer": {"step": torch.tensor(3.0)}}, path / "common.pt")
    return path


def test_own_files_pass(folder):
    check_pickles(folder)


def test_numbers_that_would_run_code_are_refused_unread(folder, tmp_path):
    torch.save({"step": Attack(tmp_path / "ran")}, folder / "common.pt")
    with pytest.raises(CheckpointError, match=r"common\.pt holds more than tensors"):
        check_pickles(folder)
    assert not (tmp_path / "ran").exists()


def test_an_index_that_would_run_code_is_refused_unread(folder, tmp_path):
    (folder / ".metadata").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"\.metadata"):
        check_pickles(folder)
    assert not (tmp_path / "ran").exists()
