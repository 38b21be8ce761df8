"""What a step says about grounding, about its gradient signal and about gaming of the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_longrlvr.config.alarms import AlarmsConfig
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.alarms import (
    ALARMS,
    LengthDrift,
    alarm_tally,
    find_alarms,
    raised_alarms,
)
from megatron_longrlvr.observability.grounding import grounding_tally, measured_means
from megatron_longrlvr.observability.metric_log import METRICS_FILE, MetricKind, read_metric_log
from megatron_longrlvr.observability.samples import alarms_path, write_samples
from megatron_longrlvr.observability.signal import signal_tally
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.parallel.collectives import broadcast_object, gather_objects, sum_over
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import ScoredBatch, ScoredSample
from megatron_longrlvr.trainer.journal import Journal


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Measures over all data-parallel ranks; every rank calls it alike."""

    rewards: RewardsConfig
    advantage: str | None
    """Kind of advantage; None where tokens of a response have unequal ones."""

    alarms: AlarmsConfig
    drift: LengthDrift
    groups: ProcessGroups
    announced: set[str] = field(default_factory=set)
    """Alarms that this start has told of."""

    def measure(self, batch: ScoredBatch, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics by name, the same on every rank.

        Args:
            batch: This rank's samples of the step.
            metrics: What is known of the step, over all ranks.
        """
        tally = (
            grounding_tally(batch)
            + signal_tally(batch, self.rewards, advantage=self.advantage)
            + alarm_tally(batch.scored, self.alarms)
        )
        summed = Tally.from_vector(tally.names, sum_over(self.groups.dp, tally.to_vector()))
        found = measured_means(summed)
        length = metrics[names.ROLLOUT_RESPONSE_TOKENS_MEAN]
        found[names.ALARM_LENGTH_RATIO] = self.drift.ratio(length)
        found[names.ALARM_RAISED] = float(len(raised_alarms(found, self.alarms)))
        return found

    def raise_alarms(
        self, batch: ScoredBatch, metrics: Mapping[str, float], *, run_dir: Path, journal: Journal
    ) -> None:
        """Tell of alarms once each, and keep examples of them."""
        raised = raised_alarms(metrics, self.alarms)
        if not raised:
            return
        for alarm in raised:
            if alarm not in self.announced:
                self.announced.add(alarm)
                journal.say(_announce(alarm, metrics, step=batch.step))
        shares = gather_objects(self._examples(batch.scored, raised), self.groups.dp)
        examples = [one for share in shares for one in share]
        if examples and self.groups.rank == 0:
            write_samples(
                alarms_path(run_dir, batch.step), examples, step=batch.step, suspect=self.suspect
            )

    def suspect(self, scored: ScoredSample) -> list[str]:
        """Alarms that a sample looks like."""
        return find_alarms(scored, self.alarms)

    def _examples(
        self, scored: Sequence[ScoredSample], raised: Sequence[str]
    ) -> list[ScoredSample]:
        chosen: dict[int, ScoredSample] = {}
        for alarm in raised:
            alike = (one for one in scored if alarm in self.suspect(one))
            # Length has no single culprit: the longest responses show most.
            listed = (
                list(alike)
                if alarm in ALARMS
                else sorted(scored, key=lambda one: -len(one.sample.token_ids))
            )
            chosen.update((id(one), one) for one in listed[: self.alarms.examples])
        return list(chosen.values())


def build_diagnostics(
    config: TrainConfig, groups: ProcessGroups, run_dir: Path, *, first_step: int
) -> Diagnostics:
    """For a run that goes on after ``first_step``; every rank calls this."""
    algorithm = config.algorithm
    is_single = algorithm.credit == "sequence" and algorithm.advantage != "gae"
    earlier = _earlier_lengths(run_dir, first_step) if groups.rank == 0 else None
    return Diagnostics(
        rewards=config.rewards,
        advantage=algorithm.advantage if is_single else None,
        alarms=config.alarms,
        drift=LengthDrift(
            config.alarms.length_baseline_steps,
            earlier=broadcast_object(earlier, groups.world),
        ),
        groups=groups,
    )


def _earlier_lengths(run_dir: Path, first_step: int) -> list[float]:
    path = run_dir / METRICS_FILE
    records = read_metric_log(path) if path.is_file() else []
    lengths = (
        record.metrics.get(names.ROLLOUT_RESPONSE_TOKENS_MEAN)
        for record in records
        if record.kind is MetricKind.TRAIN and record.step <= first_step
    )
    return [length for length in lengths if length is not None]


def _announce(alarm: str, metrics: Mapping[str, float], *, step: int) -> str:
    if alarm in ALARMS:
        seen = f"{metrics[names.alarm_frac(alarm)]:.0%} of the samples"
    else:
        seen = f"responses {metrics[names.ALARM_LENGTH_RATIO]:.2f} times as long as at the start"
    return f"alarm {alarm} at step {step}: {seen}; examples are in alarms/"
