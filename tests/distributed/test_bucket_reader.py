"""A worker's end of broadcast buckets: each is loaded once, however often it is sent.

A bucket is sent again, to a new group, when some worker did not get it. Those that did must take
part, or nobody gets it, and must not load it a second time: vLLM counts what it has loaded. The
learner's end is a thread here. Not covered: NCCL.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.refit.broadcast import BroadcastGroup, open_store
from megatron_longrlvr.refit.bucket_reader import BucketReader, GroupInfo, ServerBucket

TIMEOUT_S = 10.0
BUCKETS = [torch.arange(6.0), torch.arange(6.0, 12.0)]


def bucket(place):
    return ServerBucket(place=place, shapes=[{"a": [2], "b": [2, 2]}], dtype="float32")


def loaded(place):
    first, rest = BUCKETS[place].split([2, 4])
    return {"a": first.tolist(), "b": rest.view(2, 2).tolist()}


def send(reader, *places):
    """Broadcast buckets to a new group of learner and reader; what it gives to be loaded."""
    store = open_store(timeout_s=TIMEOUT_S)

    def learner():
        group = BroadcastGroup(
            store, rank=0, size=2, address="127.0.0.1", is_cuda=False, timeout_s=TIMEOUT_S
        )
        for place in places:
            group.broadcast(BUCKETS[place])

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(learner)
        stores = [f"127.0.0.1:{store.port}"]
        info = GroupInfo(stores=stores, first_rank=1, size=2, timeout_s=TIMEOUT_S)
        reader.join(info, worker=0)
        given = [reader.read(bucket(place)) for place in places]
        sending.result()  # everything was received
    return [{name: tensor.tolist() for name, tensor in one.items()} for one in given]


@pytest.fixture
def reader():
    reader = BucketReader(torch.device("cpu"))
    reader.begin()
    return reader


def test_a_bucket_that_is_sent_again_is_received_and_not_loaded_again(reader):
    assert send(reader, 0) == [loaded(0)]
    assert send(reader, 0, 1) == [{}, loaded(1)]
    assert reader.num_read == 2


def test_the_next_update_loads_all_buckets_again(reader):
    send(reader, 0, 1)
    reader.begin()
    assert send(reader, 0, 1) == [loaded(0), loaded(1)]


def test_a_bucket_after_a_missing_one_is_an_error(reader):
    with pytest.raises(RefitMismatch, match=r"bucket 1 .* lacks bucket 0"):
        reader.read(bucket(1))
