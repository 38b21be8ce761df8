"""Rate limits: a bucket that fills evenly and is emptied by use."""

from __future__ import annotations

import asyncio

from megatron_longrlvr.chat.clock import Clock

_MINUTE_S = 60.0
# What may be used at once after a quiet time: servers count in windows of this size or longer.
_BURST_S = 1.0
# Of a unit. A level that lacks less counts as full: the wait for the last rounding error of a level
# may be too short to move the clock at all.
_ROUNDING = 1e-6


class RateLimit:
    """Lets so many units a minute pass, in the order of asking."""

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self._per_s = per_minute / _MINUTE_S
        self._capacity = max(1.0, self._per_s * _BURST_S)
        self._level = self._capacity
        self._filled_at = clock.now()
        self._clock = clock
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        """Wait until ``amount`` may pass.

        An amount above the bucket's size waits for a full one and leaves a debt that later ones
        wait for, so that the rate holds in the long run.
        """
        async with self._turn:
            needed = min(amount, self._capacity)
            self._fill()
            while self._level < needed - _ROUNDING:
                await self._clock.sleep((needed - self._level) / self._per_s)
                self._fill()
            self._level -= amount

    def correct(self, difference: float) -> None:
        """Take ``difference`` more, after the fact; a negative one is given back."""
        self._level = min(self._capacity, self._level - difference)

    def _fill(self) -> None:
        now = self._clock.now()
        self._level = min(self._capacity, self._level + (now - self._filled_at) * self._per_s)
        self._filled_at = now
