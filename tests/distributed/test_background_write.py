"""The forks that write a checkpoint, seen from the rank that started them."""

import multiprocessing
from types import SimpleNamespace

from megatron_longrlvr.checkpoint.background import BackgroundWrite


def request(write):
    """As far as it is read, megatron-core's; writes no file."""
    return SimpleNamespace(
        async_fn=lambda *_: write(), async_fn_args=[0, [], None], preload_fn=None, finalize_fns=[]
    )


def test_saves_write_in_the_order_in_which_they_are_finished(tmp_path):
    # What was written where comes back in one queue for all of them and says not whose it is: a
    # critic's answer in place of the policy's made checkpoints that could not be read.
    context = multiprocessing.get_context("fork")
    may_write, has_written = context.Event(), context.Event()
    first = BackgroundWrite(request(may_write.wait), tmp_path / "first.json")
    second = BackgroundWrite(request(has_written.set), tmp_path / "second.json", after=first)
    assert not has_written.wait(timeout=0.5)
    may_write.set()
    second.wait()
    first.wait()
    assert has_written.is_set()
