"""Checksums tell tensors apart that differ in one number, and only those.

Promise: position and value both count; layout in memory, sign of zero and numbers below the normal
range do not; the small case is worked out by hand.
"""

import pytest
import torch

from megatron_longrlvr.refit.checksum import checksum, sample_columns

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_two_numbers_by_hand():
    # 1.0 is 0x3f800000 and 2.0 is 0x40000000; place 0 weighs 1 and place 1 weighs 2654435761,
    # in block 0, which weighs 1.
    assert checksum(torch.tensor([1.0, 2.0])) == 0x3F800000 + 0x40000000 * 2_654_435_761


def test_a_number_in_the_second_block_by_hand():
    # 2**15 zeros before it: place 0 of block 1.
    weight = 0x9E3779B97F4A7C15
    assert checksum(torch.cat([torch.zeros(2**15), torch.ones(1)])) == 0x3F800000 * weight % 2**64


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_changed_number_changes_it(dtype):
    tensor = torch.randn(37, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    changed = tensor.clone()
    changed[20, 3] = torch.nextafter(changed[20, 3], torch.tensor(9.0, dtype=dtype))
    assert checksum(tensor) != checksum(changed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_numbers_that_change_places_change_it(dtype):
    tensor = torch.arange(1, 13).to(dtype).view(3, 4)
    assert checksum(tensor) != checksum(tensor.flip(0))


def test_layout_in_memory_does_not_count():
    tensor = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert checksum(tensor.t().contiguous().t()) == checksum(tensor)


def test_zeros_and_what_is_smaller_than_normal_count_alike():
    assert checksum(torch.tensor([-0.0, 1e-40])) == checksum(torch.zeros(2))


def test_a_long_tensor_has_the_same_checksum_however_many_blocks_are_handled_at_once(monkeypatch):
    tensor = torch.randn(5 * 2**15 + 3, generator=torch.Generator().manual_seed(0))
    whole = checksum(tensor)
    monkeypatch.setattr("megatron_longrlvr.refit.checksum._BLOCKS_AT_ONCE", {"cpu": 2})
    assert checksum(tensor) == whole


def test_blocks_that_change_places_change_it():
    tensor = torch.randn(2, 2**15, generator=torch.Generator().manual_seed(0))
    assert checksum(tensor) != checksum(tensor.flip(0))


def test_columns_differ_between_versions_and_repeat_within_one():
    chosen = [sample_columns("a.weight", 100, count=5, version=version) for version in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 5
    assert set(chosen[0]) <= set(range(100))


@pytest.mark.parametrize("count", [None, 7, 8])
def test_all_columns_are_taken_where_there_are_no_more(count):
    assert sample_columns("a.weight", 7, count=count, version=1) == list(range(7))
