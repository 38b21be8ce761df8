"""Stop after the step in progress when someone asks for it."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers SIGINT and SIGTERM; the second SIGINT ends the process at once.

    A signal may reach the ranks at different steps, so the loop asks them all whether any has
    seen it before it stops.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        signal.signal(signal.SIGINT, self._remember)
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal_name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
