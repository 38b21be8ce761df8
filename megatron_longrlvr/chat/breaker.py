"""Circuit breaker: an endpoint that keeps failing is left alone for a while, then probed.

closed     requests pass; so many failures in a row open the circuit
open       nothing passes until its time is up
half-open  one request passes; its success closes the circuit, its failure opens it for twice
           as long
"""

from __future__ import annotations

from enum import StrEnum

from megatron_longrlvr.chat.clock import Clock
from megatron_longrlvr.config.chat import ChatBreakerConfig


class CircuitState(StrEnum):
    """Whether requests pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """The breaker of one endpoint. Every entered request must end in one of three methods."""

    def __init__(self, config: ChatBreakerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._failures = 0
        self._open_s = config.open_s
        self._open_until = 0.0
        self._failed_probes = 0
        self.state = CircuitState.CLOSED
        self.num_openings = 0
        """Times that a closed circuit opened."""

    @property
    def is_down(self) -> bool:
        """Whether the circuit is open and its probe has failed too: no passing trouble."""
        return self.state is not CircuitState.CLOSED and self._failed_probes > 0

    def wait_s(self) -> float:
        """Seconds until a request may enter; 0 where one may now."""
        if self.state is CircuitState.CLOSED:
            return 0.0
        if self.state is CircuitState.OPEN:
            return max(0.0, self._open_until - self._clock.now())
        return self._open_s  # the probe under way decides, most likely sooner

    def enter(self) -> bool:
        """Whether a request may be sent now; in a circuit whose time is up it is the probe."""
        if self.state is CircuitState.CLOSED:
            return True
        if self.state is CircuitState.OPEN and self.wait_s() == 0:
            self.state = CircuitState.HALF_OPEN
            return True
        return False

    def succeed(self) -> None:
        """The endpoint answered."""
        self.state = CircuitState.CLOSED
        self._failures = self._failed_probes = 0
        self._open_s = self._config.open_s

    def fail(self) -> None:
        """The endpoint did not answer, or not with anything of use."""
        self._failures += 1
        if self.state is CircuitState.HALF_OPEN:
            self._failed_probes += 1
            self._open_s = min(2 * self._open_s, self._config.max_open_s)
            self._open()
        elif self.state is CircuitState.CLOSED and self._failures >= self._config.failures:
            self.num_openings += 1
            self._open()

    def abandon(self) -> None:
        """The request was given up for reasons of ours and says nothing about the endpoint."""
        if self.state is CircuitState.HALF_OPEN:
            self._open()

    def _open(self) -> None:
        self.state = CircuitState.OPEN
        self._open_until = self._clock.now() + self._open_s
