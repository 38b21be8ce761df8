"""What a finished step reports: metrics over all ranks, and samples to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.judge_metrics import judge_metrics, judge_tally
from megatron_longrlvr.observability.samples import heldout_path, samples_path, write_samples
from megatron_longrlvr.observability.step_metrics import (
    advantage_tally,
    groups_of,
    train_metrics,
    train_tally,
    update_metrics,
)
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.parallel.collectives import gather_objects, sum_over
from megatron_longrlvr.parallel.device import device, has_cuda, peak_memory_gib, peak_tflops
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import ScoredBatch, ScoredSample, UpdateStats
from megatron_longrlvr.trainer.step import StepOutcome
from megatron_longrlvr.trainer.stopwatch import PARTS
from megatron_longrlvr.trainer.workload import Workload, utilization

Suspect = Callable[[ScoredSample], Sequence[str]]
"""Names of the alarms that a sample looks like."""


def step_metrics(
    outcome: StepOutcome, groups: ProcessGroups, workload: Workload
) -> dict[str, float]:
    """Metrics of a step by name, the same on every rank; every rank calls this."""
    prepared = outcome.prepared
    tally = train_tally(prepared.collected.scored) + advantage_tally(prepared.advantages)
    tally = Tally.from_vector(tally.names, sum_over(groups.dp, tally.to_vector()))
    seconds = [outcome.stopwatch.seconds[part] for part in PARTS]
    *slowest, memory_gib = _largest([*seconds, peak_memory_gib()], groups)
    timing = {f"timing/{part}_s": value for part, value in zip(PARTS, slowest, strict=True)}
    metrics = {
        **train_metrics(tally),
        **timing,
        **update_metrics(_mean_over_updates(outcome.updates)),
        **_critic_metrics(outcome),
        **_workload_metrics(outcome, groups, workload, timing),
        **prepared.gap,
        **prepared.signal,
        **outcome.refit,
        names.UPDATE_SKIPPED: float(not outcome.updates),
        names.ROLLOUT_ROUNDS: float(prepared.collected.rounds),
        **_staleness_metrics(outcome, groups),
        **_judging_metrics(outcome, groups),
    }
    memory = names.MEMORY_DEVICE_PEAK_GIB if has_cuda() else names.MEMORY_HOST_PEAK_GIB
    metrics[memory] = memory_gib
    metrics[names.ROLLOUT_TOKENS_PER_S] = (
        metrics[names.ROLLOUT_RESPONSE_TOKENS] / metrics[names.TIMING_STEP_S]
    )
    return metrics


def _workload_metrics(
    outcome: StepOutcome, groups: ProcessGroups, workload: Workload, timing: Mapping[str, float]
) -> dict[str, float]:
    local = workload.flops(outcome)
    sums = sum_over(groups.dp, [*local.values(), *workload.packed_tokens(outcome)])
    *flops, real, padding, repeated = sums
    metrics = dict(zip(local, flops, strict=True))
    if real:
        metrics[names.PACKING_PADDING_FRAC] = padding / (real + padding)
        metrics[names.PACKING_REPEATED_PROMPT_FRAC] = repeated / (real + padding)
        metrics[names.PACKING_LOAD_IMBALANCE] = max(
            batch.load_imbalance for batch in outcome.prepared.packed
        )
    peak = peak_tflops()
    if peak is None:
        return metrics
    ranks = groups.layout.world_size
    return {**metrics, **utilization(metrics, timing, ranks=ranks, peak_tflops=peak)}


def save_samples(
    batch: ScoredBatch, groups: ProcessGroups, run_dir: Path, *, suspect: Suspect
) -> None:
    """Write a step's samples of all data-parallel ranks; every rank calls this."""
    # Their experts are as large as a model's activations, and nobody writes them.
    told = [replace(one, sample=replace(one.sample, experts=None)) for one in batch.scored]
    gathered = gather_objects(told, groups.dp)
    if groups.rank == 0:
        everything = [scored for share in gathered for scored in share]
        path = samples_path(run_dir, batch.step)
        write_samples(path, everything, step=batch.step, suspect=suspect)


def save_heldout(
    batch: ScoredBatch,
    groups: ProcessGroups,
    run_dir: Path,
    *,
    step: int,
    num_prompts: int,
    suspect: Suspect,
) -> None:
    """Write the samples of the first held-out prompts; every rank calls this.

    Args:
        batch: This data-parallel rank's share; prompts were dealt one by one.
        groups: Of this rank.
        run_dir: Of the run.
        step: After which was measured.
        num_prompts: Over all ranks; 0 writes nothing.
        suspect: What a sample looks like.
    """
    if num_prompts == 0:
        return
    share = math.ceil(num_prompts / groups.layout.dp)
    gathered = gather_objects(groups_of(batch)[:share], groups.dp)
    if groups.rank == 0:
        dealt = [group for row in zip_longest(*gathered) for group in row if group is not None]
        written = [scored for group in dealt[:num_prompts] for scored in group]
        write_samples(heldout_path(run_dir, step), written, step=step, suspect=suspect)


def _staleness_metrics(outcome: StepOutcome, groups: ProcessGroups) -> dict[str, float]:
    """Age of the samples that the step learned from, in optimizer steps."""
    scored = outcome.prepared.collected.for_training.scored
    ages = [float(outcome.version - one.sample.policy_version) for one in scored]
    switched = sum(bool(one.sample.later_versions) for one in scored)
    total, count, spread = sum_over(groups.dp, [sum(ages), len(ages), switched])
    (oldest,) = _largest([max(ages, default=0.0)], groups)
    return {
        names.ROLLOUT_STALENESS_MEAN: total / max(count, 1),
        names.ROLLOUT_STALENESS_MAX: oldest,
        names.ROLLOUT_MIXED_VERSIONS_FRAC: spread / max(count, 1),
    }


def _critic_metrics(outcome: StepOutcome) -> dict[str, float]:
    valuation = outcome.prepared.valuation
    if valuation is None:
        return {}
    learned = _mean_over_updates(outcome.critic)
    return {**valuation.metrics, **update_metrics(learned, prefix=names.CRITIC_PREFIX)}


def _judging_metrics(outcome: StepOutcome, groups: ProcessGroups) -> dict[str, float]:
    collected = outcome.prepared.collected
    if collected.judging is None:  # on all ranks alike: the recipe has no judge
        return {}
    tally = judge_tally(collected.scored.scored, collected.judging)
    summed = sum_over(groups.dp, tally.to_vector())
    return judge_metrics(Tally.from_vector(tally.names, summed))


def _mean_over_updates(updates: Sequence[UpdateStats]) -> dict[str, float]:
    if not updates:
        return {}
    return {
        name: sum(update.metrics[name] for update in updates) / len(updates)
        for name in updates[0].metrics
    }


def _largest(values: Sequence[float], groups: ProcessGroups) -> list[float]:
    largest = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=groups.world)
    return [float(value) for value in largest]
