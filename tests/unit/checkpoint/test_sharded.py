"""Values that are written while training goes on are not copied for it first."""

import pytest
import torch

from megatron_longrlvr.checkpoint.sharded import alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_part_of_a_storage_is_the_same_memory_as_a_storage_of_its_own(dtype):
    buffer = torch.arange(24).to(dtype)
    part = buffer[6:18].view(3, 4)
    shown = alone(part)
    assert torch.equal(shown, part)
    assert (shown.dtype, shown.shape) == (dtype, part.shape)
    assert shown.untyped_storage().nbytes() == part.nbytes
    buffer[6] = 23
    assert shown[0, 0] == 23
    buffer.untyped_storage().resize_(0)  # as of a critic that goes to host memory


def test_memory_lives_as_long_as_what_shows_it():
    shown = alone(torch.arange(2**20)[1:])  # nothing else refers to it
    others = [torch.zeros(2**20) for _ in range(8)]
    assert torch.equal(shown, torch.arange(1, 2**20)), len(others)


def test_what_cannot_be_shown_so_is_left_as_it_is():
    across = torch.arange(12.0).view(3, 4)[:, 1:3]
    for values in (across, torch.tensor(3.0), torch.empty(0, 2), torch.arange(4.0)):
        assert torch.equal(alone(values), values)
