"""Elements come back to their bucket's offset; the padding between buckets is zero."""

from types import SimpleNamespace

import torch

from megatron_longrlvr.checkpoint.bucket_padding import pad_buckets


def bucket(offset, numel_unpadded):
    return SimpleNamespace(offset=offset, numel_unpadded=numel_unpadded)


def test_elements_move_behind_the_padding_of_earlier_buckets():
    # Three elements padded to four, four without padding, then two.
    buckets = [bucket(0, 3), bucket(4, 4), bucket(8, 2)]
    flat = torch.arange(1.0, 10.0)
    expected = [1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert pad_buckets(flat, buckets).tolist() == expected


def test_single_bucket_stays_where_it_is():
    flat = torch.arange(3.0)
    assert pad_buckets(flat, [bucket(0, 3)]) is flat
