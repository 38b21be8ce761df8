"""Device memory that an engine in the training process gives back while the learner trains."""

from __future__ import annotations

from typing import Any

WEIGHTS, KV_CACHE = "weights", "kv_cache"
_PARTS = (WEIGHTS, KV_CACHE)
_DROPS_WEIGHTS = 2


class EngineMemory:
    """Puts a vLLM engine to sleep and wakes it, part by part.

    vLLM wakes nothing at all where one of the parts that it is asked for is awake, and puts nothing
    to sleep where one sleeps; so what sleeps is kept account of here.
    """

    def __init__(self, llm: Any, *, level: int) -> None:  # noqa: ANN401 - untyped vllm
        """Begin with everything awake.

        Args:
            llm: The engine.
            level: Of sleep: 0 none, 1 weights on the host, 2 no weights.
        """
        self._llm = llm
        self._level = level
        self._asleep: set[str] = set()
        self.has_weights = True
        """False once they were dropped in sleep; whoever publishes sets it."""

    @property
    def keeps_weights(self) -> bool:
        """Whether weights outlive sleep."""
        return self._level < _DROPS_WEIGHTS

    def wake(self, *parts: str) -> None:
        """Make sure that these parts are awake."""
        asleep = [part for part in parts if part in self._asleep]
        if asleep:
            self._llm.wake_up(tags=asleep)
            self._asleep.difference_update(asleep)

    def sleep(self) -> None:
        """Give everything back; does nothing at level 0."""
        if self._level == 0:
            return
        self.wake(*_PARTS)
        self._llm.sleep(level=self._level)
        self._asleep.update(_PARTS)
        self.has_weights = self.keeps_weights
