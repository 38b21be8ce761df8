"""What a stage is, what it gets to work with, and how its items are gone through."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from megatron_longrlvr.data.synthesis.folder import StageWriter, pack, unpack
from megatron_longrlvr.data.synthesis.kept import KeptResults, Part
from megatron_longrlvr.data.synthesis.outcome import Outcome, Quarantined
from megatron_longrlvr.data.synthesis.progress import StageProgress
from megatron_longrlvr.data.synthesis.workspace import Workspace
from megatron_longrlvr.errors import ServersUnavailable

# Requests that found no reply, after all their attempts, at which a stage stops early.
_MAX_UNANSWERED = 16

_Item = TypeVar("_Item")
_Record = TypeVar("_Record")


class Unanswered(Exception):  # noqa: N818 - a value that travels as an exception
    """No server replied, so nothing is known about the item; the next start asks again."""


class Unusable(Exception):  # noqa: N818 - a value that travels as an exception
    """No reply to a prompt could be used."""

    def __init__(self, quarantined: Quarantined) -> None:
        super().__init__(quarantined.fault.value)
        self.quarantined = quarantined


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One item of a stage that computes."""

    name: str
    """For people."""

    key: str | None
    """Hash of all that the outcome depends on; None where computing it again costs nothing."""

    work: Callable[[], Outcome]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a stage works with."""

    workspace: Workspace
    writer: StageWriter
    kept: KeptResults
    progress: StageProgress
    seed: int

    def rows(self, stage: str, record: type[_Record]) -> Iterator[_Record]:
        """Rows of an earlier stage."""
        return self.workspace.rows(stage, record)

    def take(self, outcome: Outcome) -> None:
        """Write what became of the next item."""
        self.writer.add(outcome)
        self.progress.advance(outcome)


class Stage(Protocol):
    """One step of the pipeline."""

    @property
    def name(self) -> str:
        """One of ``workspace.STAGES``."""
        ...

    @property
    def record(self) -> type:
        """Of its rows."""
        ...

    @property
    def inputs(self) -> Sequence[str]:
        """Stages that it reads; the first one's rows, or its documents, are the items."""
        ...

    @property
    def keeps_for_good(self) -> bool:
        """Whether kept results outlive the stage, since they cost money."""
        ...

    def settings(self) -> Mapping[str, Part]:
        """All that its rows depend on beside its inputs; another value makes it stale."""
        ...

    def count_items(self, workspace: Workspace) -> int:
        """Items ahead, for the progress display."""
        ...

    def run(self, desk: Desk) -> None:
        """Go through all items, in order.

        Raises:
            ServersUnavailable: Some have no outcome yet.
        """
        ...


def run_tasks(tasks: Iterable[Task], desk: Desk, record: type) -> None:
    """Compute outcomes one after the other; those that were kept are not computed again."""
    for task in tasks:
        known = None if task.key is None else desk.kept.find(task.key)
        if isinstance(known, bytes):
            outcome = unpack(known, record)
        else:
            outcome = task.work()
            if task.key is not None:
                desk.kept.store(task.key, pack(outcome, record), item=task.name)
        desk.take(outcome)


async def run_requests(
    items: Iterable[_Item],
    work: Callable[[_Item], Awaitable[Outcome]],
    desk: Desk,
    *,
    num_ahead: int,
) -> None:
    """Work on several items at a time and take their outcomes in order.

    Args:
        items: Read only as far as they are worked on.
        work: May raise ``Unanswered``.
        desk: Gets the outcomes.
        num_ahead: Items begun before the first of them is done.

    Raises:
        ServersUnavailable: Items had no reply. All others were worked on, unless there were too
            many of them; what they came to is kept.
    """
    waiting: deque[asyncio.Future[Outcome]] = deque()
    unanswered = _Unanswered()
    try:
        for item in items:
            waiting.append(asyncio.ensure_future(work(item)))
            if len(waiting) >= num_ahead:
                await _take(waiting.popleft(), desk, unanswered)
        while waiting:
            await _take(waiting.popleft(), desk, unanswered)
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    unanswered.check(limit=0)


async def gather(works: Iterable[Awaitable[_Item]]) -> list[_Item | Unusable]:
    """Wait for several replies; those that cannot be used stand in their places.

    Raises:
        Unanswered: One had no reply; after all others have ended, so that these are kept.
    """
    results = await asyncio.gather(*works, return_exceptions=True)
    found: list[_Item | Unusable] = []
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Unusable):
            raise result
        found.append(result)
    return found


@dataclass(kw_only=True)
class _Unanswered:
    reasons: Counter[str] = field(default_factory=Counter)

    def check(self, *, limit: int) -> None:
        count = self.reasons.total()
        if count > limit:
            shown = ", ".join(f"{reason}: {n}" for reason, n in self.reasons.most_common(3))
            raise ServersUnavailable(
                f"{count} items have no reply yet ({shown}); the same command asks for them again "
                "and goes on"
            )


async def _take(future: asyncio.Future[Outcome], desk: Desk, unanswered: _Unanswered) -> None:
    try:
        outcome = await future
    except Unanswered as failure:
        unanswered.reasons[str(failure)] += 1
        unanswered.check(limit=_MAX_UNANSWERED)
        return
    desk.take(outcome)


def as_part(value: Any) -> Part:  # noqa: ANN401 - what pydantic dumps
    """A dumped section as a part of a stage's settings."""
    part: Part = value
    return part
