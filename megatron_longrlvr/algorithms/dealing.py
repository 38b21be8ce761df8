"""Which optimizer update and which data-parallel rank gets each group of a step.

Groups differ in length by far more than samples of short-context training do, and every rank
waits for the slowest. So groups are dealt over all ranks at once, whole, by what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A group stays on the rank that holds it while that rank's load exceeds the smallest one by no
# more than this share of the mean: moving 64K tokens of text for less is not worth it.
_STAY_SLACK = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupShape:
    """Lengths of a group that is to be trained on."""

    num_prompt_tokens: int
    response_tokens: tuple[int, ...]
    """Of each sample that is left in it."""

    @property
    def num_response_tokens(self) -> int:
        return sum(self.response_tokens)

    @property
    def num_sample_tokens(self) -> int:
        """Of whole samples, each with the prompt."""
        return self.num_prompt_tokens * len(self.response_tokens) + self.num_response_tokens


GroupCost = Callable[[GroupShape], float]
"""Work of a group in any unit; only ratios count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a group is trained on."""

    update: int
    rank: int


def deal_groups(
    shapes: Sequence[Sequence[GroupShape]], *, num_updates: int, cost: GroupCost
) -> list[list[Place]]:
    """Deal the groups of all ranks, costliest first.

    First to the step's updates, back and forth, so that these hold equally many groups to within
    one; then each update's groups to the rank with the least work (longest-processing-time).

    Args:
        shapes: Groups by the rank that holds them.
        num_updates: Optimizer updates of the step.
        cost: Work of a group.

    Returns:
        The place of each group, in the order of ``shapes``. The same on every rank.
    """
    costs = [[cost(shape) for shape in held] for held in shapes]
    order = [(rank, index) for rank, held in enumerate(shapes) for index in range(len(held))]
    order.sort(key=lambda group: -costs[group[0]][group[1]])
    num_ranks = len(shapes)
    total = sum(map(sum, costs))
    slack = _STAY_SLACK * total / (num_updates * num_ranks)
    loads = [[0.0] * num_ranks for _ in range(num_updates)]
    places: list[list[Place]] = [[Place(update=0, rank=0)] * len(held) for held in shapes]
    for turn, (origin, index) in enumerate(order):
        lap, position = divmod(turn, num_updates)
        update = position if lap % 2 == 0 else num_updates - 1 - position
        load = loads[update]
        lightest = min(range(num_ranks), key=load.__getitem__)
        rank = origin if load[origin] <= load[lightest] + slack else lightest
        load[rank] += costs[origin][index]
        places[origin][index] = Place(update=update, rank=rank)
    return places


def load_imbalance(
    shapes: Sequence[Sequence[GroupShape]],
    places: Sequence[Sequence[Place]],
    *,
    update: int,
    cost: GroupCost,
) -> float:
    """Work of an update's busiest rank over the mean of all; 1 is even, and so is no work."""
    loads = [0.0] * len(shapes)
    for held, dealt in zip(shapes, places, strict=True):
        for shape, place in zip(held, dealt, strict=True):
            if place.update == update:
                loads[place.rank] += cost(shape)
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0
