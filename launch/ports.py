"""A port for the ranks to meet at, free on this node and not promised to another job."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Below the ports that Linux gives to outgoing connections (32768 and up), so that none of those
# can take it between the probe and its use.
FIRST_PORT = 20_000
NUM_PORTS = 10_000

# Spreads jobs with neighbouring ids; prime to NUM_PORTS, so that no two of them start alike.
_STRIDE = 37


@contextmanager
def reserved_port(job_id: int, locks: Path | None = None) -> Iterator[int]:
    """A free port, kept from other jobs of this package on the node for the length of the block.

    Args:
        job_id: Where the search starts; jobs of one node start in different places.
        locks: Folder of the lock files, on the node's own disk; the temporary one if None.

    Raises:
        RuntimeError: No port of the range is free.
    """
    folder = locks or Path(tempfile.gettempdir())
    for offset in range(NUM_PORTS):
        port = FIRST_PORT + (job_id * _STRIDE + offset) % NUM_PORTS
        lock = _lock(folder / f"longrlvr-{os.getuid()}-port-{port}")
        if lock is None:
            continue
        try:
            if _is_free(port):
                yield port
                return
        finally:
            os.close(lock)
    raise RuntimeError(f"no free port from {FIRST_PORT} to {FIRST_PORT + NUM_PORTS - 1}")


def _lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the store of torch.distributed does: connections that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
