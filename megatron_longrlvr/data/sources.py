"""Deal prompts, step after step, from a position that a checkpoint can hold.

A source counts the prompts it has dealt, over all data-parallel ranks, and which prompt comes at
which count is a pure function: every rank draws the same prompts and takes its share, and a
resumed run goes on where the saved one stood, whatever its layout.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from megatron_longrlvr.stages import Prompt


class PromptSource(Protocol):
    """Deals prompts; its position is part of the checkpoint."""

    def draw(self, num_prompts: int) -> tuple[Prompt, ...]:
        """Deal the next prompts, those of all data-parallel ranks together."""
        ...

    def state(self) -> int:
        """Prompts dealt so far."""
        ...

    def restore(self, cursor: int) -> None:
        """Continue after ``cursor`` dealt prompts."""
        ...

    def digest(self) -> str:
        """Another one for other prompts; empty where the recipe alone decides what they are."""
        ...


class CountedPrompts(ABC):
    """Deals the prompts of the places 0, 1, 2 and so on; satisfies ``PromptSource``."""

    def __init__(self) -> None:
        self._cursor = 0

    @abstractmethod
    def prompt_at(self, place: int) -> Prompt:
        """The prompt of a place; always the same one."""

    def draw(self, num_prompts: int) -> tuple[Prompt, ...]:
        if num_prompts < 1:
            raise ValueError(f"num_prompts must be at least 1, got {num_prompts}")
        start = self._cursor
        self._cursor += num_prompts
        return tuple(self.prompt_at(place) for place in range(start, self._cursor))

    def state(self) -> int:
        return self._cursor

    def restore(self, cursor: int) -> None:
        if cursor < 0:
            raise ValueError(f"a prompt source cannot continue after {cursor} prompts")
        self._cursor = cursor

    def digest(self) -> str:
        return ""


class FilePromptSource(CountedPrompts):
    """Deals loaded prompts, epoch after epoch without end.

    Every epoch deals each prompt once. A draw may reach into the next epoch, so it can hold a
    prompt twice there, and does where it asks for more prompts than there are.
    """

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, shuffle: bool = True) -> None:
        if not prompts:
            raise ValueError("cannot deal from no prompts")
        super().__init__()
        self._prompts = tuple(prompts)
        self._seed = seed
        self._shuffle = shuffle
        self._order = epoch_order(len(prompts), seed=seed, epoch=0)
        self._order_epoch = 0

    def prompt_at(self, place: int) -> Prompt:
        return self._prompts[self._index_at(place)]

    def digest(self) -> str:
        found = hashlib.sha256()
        for one in self._prompts:
            paid = [sorted(one.evidence_chunk_ids), list(one.reference_answers)]
            # The text is long and goes in as it is.
            found.update(json.dumps([one.prompt_id, len(one.text), *paid]).encode())
            found.update(one.text.encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def _index_at(self, place: int) -> int:
        epoch, offset = divmod(place, len(self._prompts))
        if not self._shuffle:
            return offset
        if epoch != self._order_epoch:
            self._order = epoch_order(len(self._prompts), seed=self._seed, epoch=epoch)
            self._order_epoch = epoch
        return self._order[offset]


def epoch_order(num_prompts: int, *, seed: int, epoch: int) -> tuple[int, ...]:
    """Permutation of ``range(num_prompts)`` that belongs to one epoch.

    Args:
        num_prompts: Length.
        seed: Below ``2**64``.
        epoch: From 0.
    """
    generator = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    # Sorting raw draws rather than Generator.permutation: numpy keeps the bit stream the same for
    # ever but may change what its distributions do with it, and a resumed run must not notice.
    keys = generator.random_raw(num_prompts)
    return tuple(int(index) for index in np.argsort(keys, kind="stable"))
