"""Writing a rank's share of a checkpoint in a forked process, while training goes on.

megatron-core plans the save, and copies what is on a GPU to host memory; then a fork of the rank
holds everything as it is at that moment and writes it. On CPU the fork shares the rank's memory:
pages that training changes meanwhile are copied by the kernel.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from megatron_longrlvr.checkpoint.manifest import sha256
from megatron_longrlvr.errors import CheckpointError, CheckpointWriterKilled
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.parallel.children import die_with

# Training has the cores first.
_NICENESS = 10

# Of 1000: where memory runs out, the kernel ends a save, which can be made again, and not the rank.
_OOM_SCORE = 100


class BackgroundWrite:
    """A save that has been planned and is being written; made on every rank."""

    def __init__(
        self,
        request: Any,  # noqa: ANN401 - megatron.core is untyped
        hashes: Path,
        *,
        after: BackgroundWrite | None = None,
    ) -> None:
        """Start writing.

        Args:
            request: megatron-core's AsyncRequest.
            hashes: File for the SHA-256 of what this rank writes.
            after: A save that is finished before this one. What was written where comes back in one
                queue for all saves of a process (``results_queue``), so they write in the order in
                which they are finished.
        """
        self._request = request
        self._process: multiprocessing.process.BaseProcess | None = None
        if request.async_fn is None:  # this rank has nothing to write
            return
        arguments = list(request.async_fn_args)
        if request.preload_fn is not None:
            arguments[1] = request.preload_fn()
        paths = [Path(path) for path, *_ in arguments[1]]
        earlier = None if after is None or after._process is None else after._process.sentinel
        self._process = multiprocessing.get_context("fork").Process(
            target=_write, args=(request.async_fn, arguments, paths, hashes, os.getpid(), earlier)
        )
        # Collecting garbage in the fork could end what belongs to the rank, such as CUDA memory.
        is_collecting = gc.isenabled()
        gc.disable()
        try:
            self._process.start()
        finally:
            if is_collecting:
                gc.enable()

    @property
    def is_written(self) -> bool:
        """Whether this rank's files are written, or will never be."""
        return self._process is None or not self._process.is_alive()

    def wait(self) -> None:
        """Return when this rank's files are written.

        Raises:
            CheckpointWriterKilled: The process was ended by a signal.
            CheckpointError: It failed; why a file could not be written shows in ``finish``.
        """
        if self._process is None:
            return
        self._process.join()
        code = self._process.exitcode
        assert code is not None, "joined"
        if code < 0:
            name = signal.Signals(-code).name
            guess = ": out of memory?" if -code == signal.SIGKILL else ""
            raise CheckpointWriterKilled(
                f"the process that wrote the checkpoint was killed ({name}{guess})"
            )
        if code > 0:
            raise CheckpointError(f"the process that wrote the checkpoint failed with {code}")

    def finish(self) -> None:
        """Write megatron-core's index. Collective; all ranks have written their files.

        Raises:
            Exception: As megatron-core and torch raise where a rank could not write.
        """
        for step in self._request.finalize_fns:
            step()


def read_hashes(folder: Path) -> dict[Path, str]:
    """What the ranks have left in ``folder``: SHA-256 by path of the file."""
    return {
        Path(path): digest
        for file in sorted(folder.glob("*.json"))
        for path, digest in json.loads(file.read_text(encoding="utf-8")).items()
    }


def _write(
    write: Callable[..., None],
    arguments: Sequence[object],
    paths: Sequence[Path],
    hashes: Path,
    parent: int,
    earlier: int | None,
) -> None:
    die_with(parent)
    own = os.getpid()
    # megatron-core writes with processes of its own, one for each file.
    os.register_at_fork(after_in_child=lambda: die_with(own))
    os.nice(_NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    signal.signal(signal.SIGCHLD, _die_with_children)
    if earlier is not None:
        wait([earlier])
    write(*arguments)
    # A file that could not be written is megatron-core's to report.
    digests = {str(path): sha256(path) for path in paths if path.is_file()}
    write_atomically(hashes, json.dumps(digests) + "\n")


def _die_with_children(*_: object) -> None:
    """Be killed with a process that megatron-core has started, whose answer it would wait for."""
    with suppress(ChildProcessError):
        # multiprocessing does not mind when a process has been waited for by somebody else.
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if os.WIFSIGNALED(ended[1]):
                os.kill(os.getpid(), signal.SIGKILL)
