"""Real processes on gloo, for tests of code that communicates.

    results = run_distributed(function, 4, "argument")        # one call, a world of its own
    with DistributedPool(4) as pool:                          # many calls in one world
        results = pool.run(function, "argument")

``function(rank, world_size, *args)`` runs on every rank and its picklable results come back in
rank order. It must be a function of an importable module (the test file's top level will do).

Ranks have RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and one thread each. In a pool
torch.distributed is up when the function is called, and megatron-core's groups are closed behind
it; in `run_distributed` nothing is started, as under torchrun. On a machine with a GPU,
torch.distributed is NCCL's there, and a world has no more ranks than there are GPUs.

When a rank fails or the time is up, the whole world is killed: ranks left behind in a collective
cannot be reasoned with. A pool starts a new one at its next call. Ranks are forked from a server
process that has imported torch and megatron-core, so a world of 8 costs a second, not a minute; but
not where there is a GPU, whose driver is lost in a fork once it was asked for.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from launch.ports import reserved_port
from megatron_longrlvr.parallel.device import has_cuda

ROOT = Path(__file__).parents[2]
DEFAULT_TIMEOUT_S = 600.0


class RankTimeoutError(AssertionError):
    """Some ranks did not answer in time; names them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rank:
    process: BaseProcess
    pipe: Connection


class DistributedPool:
    """Ranks that wait for functions to run together. Started at the first call."""

    def __init__(self, world_size: int, *, start_world: bool = True) -> None:
        self.world_size = world_size
        self._start_world = start_world
        self._ranks: list[_Rank] = []
        self._reservations = ExitStack()

    def __enter__(self) -> DistributedPool:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def run(
        self, function: Callable[..., Any], *args: object, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[Any]:
        """Call ``function(rank, world_size, *args)`` on every rank; results in rank order.

        Raises:
            AssertionError: Holds the traceback of the first rank that failed.
            RankTimeoutError: Ranks were still busy after ``timeout_s``.
        """
        if not self._ranks:
            port = self._reservations.enter_context(reserved_port(os.getpid()))
            self._ranks = _start_ranks(self.world_size, port, start_world=self._start_world)
        try:
            for rank in self._ranks:
                rank.pipe.send((function, args))
            return _collect(self._ranks, timeout_s)
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        """Let idle ranks leave; kill those that do not."""
        for rank in self._ranks:
            rank.pipe.close()  # a rank that waits for work reads end-of-file and returns
        for rank in self._ranks:
            rank.process.join(timeout=5)
        self._kill()

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.process.kill()
            rank.process.join()
            rank.pipe.close()
        self._ranks = []
        self._reservations.close()


def run_distributed(
    function: Callable[..., Any],
    world_size: int,
    *args: object,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> list[Any]:
    """Call ``function(rank, world_size, *args)`` in fresh processes, as torchrun would.

    Raises:
        AssertionError: Holds the traceback of the first rank that failed.
        RankTimeoutError: Ranks were still busy after ``timeout_s``.
    """
    with DistributedPool(world_size, start_world=False) as pool:
        return pool.run(function, *args, timeout_s=timeout_s)


def _start_ranks(world_size: int, port: int, *, start_world: bool) -> list[_Rank]:
    context = multiprocessing.get_context("spawn" if has_cuda() else "forkserver")
    context.set_forkserver_preload(["tests.support.warm_imports"])
    ranks = []
    with _environment(
        OMP_NUM_THREADS="1",
        PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]),
        PYTHONWARNINGS="ignore",
    ):
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, port, start_world, theirs), daemon=True
            )
            process.start()
            theirs.close()
            ranks.append(_Rank(process=process, pipe=ours))
    return ranks


def _collect(ranks: list[_Rank], timeout_s: float) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    results: dict[int, Any] = {}
    while len(results) < len(ranks):
        rank_by_pipe = {rank.pipe: i for i, rank in enumerate(ranks) if i not in results}
        ready = wait(list(rank_by_pipe), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            busy = sorted(rank_by_pipe.values())
            raise RankTimeoutError(f"ranks {busy} of {len(ranks)} gave no result in {timeout_s} s")
        for pipe in ready:
            rank = rank_by_pipe[pipe]
            results[rank] = _receive(pipe, rank, ranks[rank].process)
    return [results[rank] for rank in range(len(ranks))]


def _receive(pipe: Connection, rank: int, process: BaseProcess) -> Any:
    try:
        succeeded, result = pipe.recv()
    except EOFError:
        process.join(timeout=5)
        raise AssertionError(f"rank {rank} died with exit code {process.exitcode}") from None
    if not succeeded:
        raise AssertionError(f"rank {rank} failed:\n{result}")
    return result


def _serve(rank: int, world_size: int, port: int, start_world: bool, pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    # Ends with the test run, and may still have children: megatron-core's checkpoint writer forks.
    multiprocessing.current_process()._config["daemon"] = False
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if start_world:
        _start_world()
    gc.freeze()  # what was imported need not be searched after every call
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(rank, world_size, *args))
            _close_groups()
        except BaseException:  # noqa: BLE001 - handed to the caller with its traceback
            answer = (False, traceback.format_exc())
        pipe.send(answer)
        # Models are full of reference cycles, and hold the groups' sockets and threads with them.
        del function, args, answer
        gc.collect()


def _start_world() -> None:
    import torch.distributed as dist

    from megatron_longrlvr.parallel.device import backend_name, select_local_device

    select_local_device()
    dist.init_process_group(backend_name())


def _close_groups() -> None:
    from megatron_longrlvr.parallel.groups import close_process_groups

    close_process_groups()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
