"""megatron-core's queue of results is served by a process that ends with the rank."""

import subprocess
import sys

PROCESS_TIMEOUT_S = 240  # imports torch and megatron-core; busy machine
CODE = """
import os, signal
from megatron_longrlvr.model.cpu.install import install
install()
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron_longrlvr.checkpoint.results_queue import keep_results_with_rank
keep_results_with_rank()
newer = getattr(filesystem_async, "get_write_results_queue", None)  # of 0.19
queue = (newer or filesystem_async._get_write_results_queue)()
keep_results_with_rank()
assert filesystem_async._results_queue is queue
queue.put({"written": 1})
assert queue.get_nowait() == {"written": 1}
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_results_queue_is_one_and_ends_with_its_process():
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS_TIMEOUT_S,
    )
    # The manager inherited stdout; were it still alive, run() would wait for its end in vain.
    assert result.returncode == -9, result.stderr
