"""Seconds spent in the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from megatron_longrlvr.observability.heartbeat import beat

PARTS = ("generate", "score", "logprobs", "critic", "update", "publish", "step")


class Stopwatch:
    """Adds up wall-clock seconds by part; every rank times the same parts."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count the time of the block towards ``part``, which is one of ``PARTS``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start
            beat()
