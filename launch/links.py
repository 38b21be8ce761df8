"""How fast neighbouring nodes exchange tensors, and which node to leave out where they do not.

The nodes of a job stand in a ring, and each does a small all-reduce with either neighbour: with
NCCL on all of its GPUs, with gloo where it has none. A node is to blame where more of its links are
bad than of its neighbours': one slow node of four spoils two links, and both are its own. Two nodes
alone have one link, and either may be to blame.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from launch.rendezvous import MeetingPoint, Place, meeting_point

Link = tuple[int, int]
"""Places of two neighbours in the ring, the lower one first."""

_REPEATS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What is exchanged over each link."""

    gpus: int
    """Of each node, all of which take part; 0: one process on the CPU."""

    mib: int
    """Of one tensor."""

    timeout_s: float
    """For one link: processes up, ``_REPEATS`` all-reduces, processes down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One link, seen from one of its ends."""

    gb_per_s: float
    """Bus bandwidth as nccl-tests define it, 1e9 bytes a second, the best of the repeats; 0 where
    there was no all-reduce."""

    problem: str = ""


def rounds(count: int) -> list[list[Link]]:
    """Links of a ring of ``count`` nodes, by turns in which every node has at most one."""
    even = [(place, place + 1) for place in range(0, count - 1, 2)]
    odd = [(place, place + 1) for place in range(1, count - 1, 2)]
    last = [(0, count - 1)] if count > 2 else []
    turns = [even, odd + last] if count % 2 == 0 else [even, odd, last]
    return [turn for turn in turns if turn]


def measure_links(
    attempt: Path, own: str, nodes: Sequence[str], exchange: Exchange, *, wait_s: float
) -> Iterator[tuple[str, Finding]]:
    """This node's links one after the other, each with the neighbour's name.

    Args:
        attempt: Where neighbours tell each other a port; on the shared file system.
        own: Name of this node.
        nodes: Names of all nodes, in an order that they share.
        exchange: What to do.
        wait_s: For a neighbour's file, beyond the time that its link before may take.
    """
    import torch.distributed  # noqa: F401 - once, for the processes forked below

    place = nodes.index(own)
    for turn in rounds(len(nodes)):
        for link in turn:
            if place in link:
                end = link.index(place)
                yield (
                    nodes[link[1 - end]],
                    _measure(attempt, nodes, link, end, exchange, exchange.timeout_s + wait_s),
                )


def _measure(
    attempt: Path,
    nodes: Sequence[str],
    link: Link,
    end: int,
    exchange: Exchange,
    wait_s: float,
) -> Finding:
    job_id = int(os.environ.get("SLURM_JOB_ID", "0"))
    side = Place(index=end, count=2, name=nodes[link[end]])
    role = f"link-{nodes[link[0]]}-{nodes[link[1]]}"
    try:
        with meeting_point(attempt, role=role, place=side, job_id=job_id, wait_s=wait_s) as meeting:
            return _all_reduce(meeting, end, exchange)
    except (OSError, RuntimeError) as error:
        return Finding(gb_per_s=0.0, problem=str(error))


def _all_reduce(meeting: MeetingPoint, end: int, exchange: Exchange) -> Finding:
    """Fork this end's processes; what the slowest found, or why one found nothing."""
    context = multiprocessing.get_context("fork")
    num_local = max(exchange.gpus, 1)
    processes, results = [], []
    for local in range(num_local):
        result, told = context.Pipe(duplex=False)
        rank = end * num_local + local
        process = context.Process(
            target=_exchange, args=(told, meeting, rank, 2 * num_local, exchange), daemon=True
        )
        process.start()
        told.close()
        processes.append(process)
        results.append(result)
    deadline = time.monotonic() + exchange.timeout_s
    found = [_take(result, deadline, exchange.timeout_s) for result in results]
    for process in processes:
        process.kill()
        process.join()
    return min(found, key=lambda one: one.gb_per_s)


def _take(result: Connection, deadline: float, timeout_s: float) -> Finding:
    with contextlib.suppress(EOFError):
        if not result.poll(max(deadline - time.monotonic(), 0.0)):
            return Finding(gb_per_s=0.0, problem=f"no all-reduce in {timeout_s:g} s")
        gb_per_s, problem = result.recv()
        return Finding(gb_per_s=gb_per_s, problem=problem)
    return Finding(gb_per_s=0.0, problem="the process that was to do the all-reduce died")


def _exchange(
    told: Connection, meeting: MeetingPoint, rank: int, world_size: int, exchange: Exchange
) -> None:
    try:
        told.send((_bandwidth(meeting, rank, world_size, exchange), ""))
    # Whatever a driver or a network raises is what is asked for here.
    except Exception as error:  # noqa: BLE001
        told.send((0.0, (str(error) or type(error).__name__).splitlines()[0]))


def _bandwidth(meeting: MeetingPoint, rank: int, world_size: int, exchange: Exchange) -> float:
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if exchange.gpus:
        device = torch.device("cuda", rank % exchange.gpus)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if exchange.gpus else "gloo",
        init_method=f"tcp://{meeting.host}:{meeting.port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=exchange.timeout_s),
    )
    tensor = torch.full((exchange.mib * 2**18,), float(rank), device=device)
    seconds = []
    for _ in range(1 + _REPEATS):  # the first connects
        start = time.perf_counter()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        if exchange.gpus:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if not bool((tensor == world_size - 1).all()):
        raise RuntimeError("the all-reduce returned other numbers than it should")
    with contextlib.suppress(RuntimeError):  # a neighbour that has ended has its figure
        dist.barrier()
    return tensor.nbytes * 2 * (world_size - 1) / world_size / min(seconds[1:]) / 1e9


def blamed(bad: Sequence[tuple[str, str]], links: Sequence[tuple[str, str]]) -> list[str]:
    """Nodes that explain the bad links: those with the largest share of bad ones, again and again.

    Args:
        bad: Links that failed or are too slow.
        links: All links that count, those among them.
    """
    left, found = list(bad), list[str]()
    while left:
        share = {
            node: sum(node in link for link in left) / sum(node in link for link in links)
            for link in left
            for node in link
        }
        worst = max(share.values())
        found += [node for node in share if share[node] == worst]
        left = [link for link in left if not set(link) & set(found)]
    return sorted(found)


def describe_links(figures: Mapping[tuple[str, str], float]) -> str:
    """The slowest link and the middle one, for the log."""
    ordered = sorted(figures, key=lambda link: figures[link])
    slowest, middle = ordered[0], figures[ordered[len(ordered) // 2]]
    return (
        f"all-reduce between neighbours: {figures[slowest]:.2f} GB/s at least "
        f"({slowest[0]} and {slowest[1]}), {middle:.2f} in the middle of {len(ordered)} links"
    )
