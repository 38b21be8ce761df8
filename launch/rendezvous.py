"""Where the ranks of one step meet: found on its first node, told to the others by a file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch.ports import reserved_port
from megatron_longrlvr.files import write_atomically

_POLL_S = 0.2
# A node may be slow to pull its container; a job is cheaper late than lost.
DEFAULT_WAIT_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One node among those of a step."""

    index: int
    count: int
    name: str
    """Host name, as the other nodes know it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeetingPoint:
    """Where rank 0 listens."""

    host: str
    port: int


@contextmanager
def meeting_point(
    attempt: Path, *, role: str, place: Place, job_id: int, wait_s: float = DEFAULT_WAIT_S
) -> Iterator[MeetingPoint]:
    """Choose the port on the first node, or learn it on the others; kept for the block.

    Raises:
        RuntimeError: The first node said nothing within ``wait_s`` seconds: it did not start, or
            the attempt's directory is not on a file system that the nodes share.
    """
    path = attempt / f"meeting-{role}.json"
    if place.index > 0:
        yield _wait_for(path, wait_s)
        return
    with reserved_port(job_id) as port:
        write_atomically(path, json.dumps({"host": place.name, "port": port}) + "\n")
        yield MeetingPoint(host=place.name, port=port)


def _wait_for(path: Path, wait_s: float) -> MeetingPoint:
    deadline = time.monotonic() + wait_s
    while not path.is_file():
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{path} did not appear within {wait_s:.0f} s: the first node did not start, or "
                "run.dir is not on a file system that all nodes share"
            )
        time.sleep(_POLL_S)
    return MeetingPoint(**json.loads(path.read_text(encoding="utf-8")))
