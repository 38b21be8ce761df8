"""The forks that write a checkpoint, seen from the rank that started them."""

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from megatron_longrlvr.checkpoint.background import BackgroundWrite
from megatron_longrlvr.errors import CheckpointWriterKilled


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


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_a_process_that_dies():
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    context.Process(target=die).start()
    answers.get()  # as megatron-core waits


@pytest.mark.parametrize("write", [die, wait_for_a_process_that_dies])
def test_killed_writer_is_told_from_one_that_fails(tmp_path, write):
    killed = BackgroundWrite(request(write), tmp_path / "hashes.json")
    with pytest.raises(CheckpointWriterKilled, match=r"killed \(SIGKILL: out of memory\?\)"):
        killed.wait()


def test_memory_is_taken_from_a_writer_and_not_from_its_rank(tmp_path):
    def tell():
        (tmp_path / "score").write_text(Path("/proc/self/oom_score_adj").read_text())

    BackgroundWrite(request(tell), tmp_path / "hashes.json").wait()
    own = Path("/proc/self/oom_score_adj").read_text()
    assert int((tmp_path / "score").read_text()) > int(own)


def test_processes_that_end_well_do_not_end_the_writer(tmp_path):
    def write():
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=int) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    BackgroundWrite(request(write), tmp_path / "hashes.json").wait()
    assert (tmp_path / "hashes.json").exists()
