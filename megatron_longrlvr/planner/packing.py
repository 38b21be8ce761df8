"""How the groups of a step fall into micro-batches, by arithmetic.

The same rules as :mod:`megatron_longrlvr.algorithms.packing`, for groups of equal lengths: with a
shared prompt a group is one run of ``P + G * R`` tokens, cut into as few runs as the budget allows;
without, each of its samples is a run of ``P + R``.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_longrlvr.model.flops import NO_WORK, Work, causal_pairs, group_work
from megatron_longrlvr.planner.workload import Lengths, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One micro-batch."""

    runs: tuple[int, ...]
    """Samples of each run: with a prompt of their own, or a single one."""

    tokens: int
    responses: int
    """Response tokens, each of which is predicted."""

    work: Work


def pack_groups(
    num_groups: int, lengths: Lengths, *, group_size: int, budget: int, shared_prompt: bool
) -> list[Row]:
    """Micro-batches of a data-parallel rank's groups, largest first."""
    runs = num_groups * _runs(lengths, group_size, budget, shared_prompt=shared_prompt)
    rows: list[list[int]] = []
    room: list[int] = []
    for samples in sorted(runs, reverse=True):
        tokens = lengths.prompt + samples * lengths.response
        place = next((i for i, left in enumerate(room) if tokens <= left), None)
        if place is None:
            rows.append([samples])
            room.append(budget - tokens)
        else:
            rows[place].append(samples)
            room[place] -= tokens
    return [_row(row, lengths) for row in rows]


def update_rows(workload: Workload, lengths: Lengths) -> list[Row]:
    """Micro-batches of a data-parallel rank in one update."""
    rollout, layout = workload.rollout, workload.layout
    groups = rollout.prompts_per_step // layout.dp // workload.updates_per_step
    return pack_groups(
        max(groups, 1),
        lengths,
        group_size=rollout.group_size,
        budget=workload.micro_batch_tokens,
        shared_prompt=workload.shared_prompt,
    )


def _runs(lengths: Lengths, group_size: int, budget: int, *, shared_prompt: bool) -> list[int]:
    """Samples of each run of one group."""
    if not shared_prompt:
        return [1] * group_size
    fitting = max((budget - lengths.prompt) // lengths.response, 1)
    whole, rest = divmod(group_size, fitting)
    return [fitting] * whole + ([rest] if rest else [])


def _row(runs: list[int], lengths: Lengths) -> Row:
    work = NO_WORK
    for samples in runs:
        if samples == 1:
            # A sample alone is one segment: the same pairs as a prompt and its response.
            total = lengths.prompt + lengths.response
            work += Work(tokens=total, pairs=causal_pairs(total), predictions=lengths.response)
        else:
            work += group_work(lengths.prompt, [lengths.response] * samples, shared_prompt=True)
    return Row(runs=tuple(runs), tokens=work.tokens, responses=work.predictions, work=work)
