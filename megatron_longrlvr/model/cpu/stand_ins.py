"""Stream and event that have nothing to wait for: CPU work is done when its call returns."""

from __future__ import annotations

import time

import torch


class CpuStream:
    """Takes the place of ``torch.cuda.Stream``."""

    device = torch.device("cpu")
    cuda_stream = 0

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        return

    def wait_stream(self, _stream: CpuStream) -> None:
        return

    def wait_event(self, _event: CpuEvent) -> None:
        return

    def synchronize(self) -> None:
        return

    def query(self) -> bool:
        return True

    def record_event(self, event: CpuEvent | None = None) -> CpuEvent:
        event = event or CpuEvent()
        event.record()
        return event

    def __enter__(self) -> CpuStream:
        return self

    def __exit__(self, *_exception: object) -> None:
        return


class CpuEvent:
    """Takes the place of ``torch.cuda.Event``; measures wall-clock time."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        self._recorded_s = 0.0

    def record(self, _stream: CpuStream | None = None) -> None:
        self._recorded_s = time.perf_counter()

    def wait(self, _stream: CpuStream | None = None) -> None:
        return

    def synchronize(self) -> None:
        return

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: CpuEvent) -> float:
        """Milliseconds from this event to ``end``, as the CUDA event reports them."""
        return (end._recorded_s - self._recorded_s) * 1e3
