"""After loading, every generator draws what it drew after saving."""

import random

import numpy
import pytest
import torch

from megatron_longrlvr.checkpoint.random_state import (
    load_random_state,
    random_state_path,
    save_random_state,
)
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.mcore import get_cuda_rng_tracker

TRACKED = "model-parallel-rng"


@pytest.fixture(autouse=True)
def tracker():
    tracker = get_cuda_rng_tracker()
    before = tracker.get_states()
    tracker.reset()
    tracker.add(TRACKED, 3)
    yield tracker
    tracker.set_states(before)


def draw(tracker):
    # Gaussians come in pairs of which the second is kept: an odd number of them leaves one behind.
    drawn = [random.random(), random.gauss(0, 1), *numpy.random.standard_normal(3)]
    drawn += [*numpy.random.random(2), *torch.rand(2).tolist(), *torch.randn(1).tolist()]
    with tracker.fork(TRACKED):
        return drawn + torch.rand(2).tolist()


def test_all_generators_go_on_from_where_they_were(tmp_path, tracker):
    draw(tracker)
    save_random_state(tmp_path, 7)
    expected = draw(tracker)
    assert draw(tracker) != expected
    load_random_state(tmp_path, 7)
    assert draw(tracker) == expected
    load_random_state(tmp_path, 7)
    assert draw(tracker) == expected


def test_file_of_this_rank_is_named_when_it_is_absent(tmp_path):
    save_random_state(tmp_path, 0)
    with pytest.raises(CheckpointError, match=r"rank_00001\.safetensors"):
        load_random_state(tmp_path, 1)


def test_cut_file_changes_nothing(tmp_path):
    save_random_state(tmp_path, 0)
    path = random_state_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-100])
    expected = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"rank_00000\.safetensors"):
        load_random_state(tmp_path, 0)
    assert torch.equal(torch.get_rng_state(), expected)
