"""One training step, written as the sentence it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.algorithms.assign import assign_advantages, whiten_advantages
from megatron_longrlvr.algorithms.credit import SegmentCredit
from megatron_longrlvr.algorithms.dealing import GroupCost
from megatron_longrlvr.algorithms.overlong import charge_overlong
from megatron_longrlvr.algorithms.packing import Peers, pack
from megatron_longrlvr.algorithms.valuation import Valuation
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.critic import Critic
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.rollout.engine import WeightPublisher
from megatron_longrlvr.stages import (
    AdvantageBatch,
    PackedBatch,
    PolicyVersion,
    TrainBatch,
    UpdateStats,
)
from megatron_longrlvr.trainer.collect import Collected, Collector
from megatron_longrlvr.trainer.critic_step import consult
from megatron_longrlvr.trainer.gradient_parts import GradientParts
from megatron_longrlvr.trainer.mismatch_guard import MismatchGuard
from megatron_longrlvr.trainer.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """Everything a step needs, already built for this rank."""

    collector: Collector
    learner: Learner
    publisher: WeightPublisher
    algorithm: AlgorithmConfig
    max_response_tokens: int
    peers: Peers
    cost: GroupCost
    """Work of training on a group, to even it out over the ranks."""

    guard: MismatchGuard
    gradient_parts: GradientParts
    critic: Critic | None = None
    """Given where ``algorithm.advantage`` is ``gae``."""

    credit: SegmentCredit | None = None
    """Given where ``algorithm.credit`` is ``segment``."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a step will learn from, on this rank."""

    collected: Collected
    advantages: AdvantageBatch
    packed: Sequence[PackedBatch]
    """This rank's share of each optimizer update that takes place."""

    batches: Sequence[TrainBatch]
    """One per optimizer update; empty when no group teaches anything."""

    valuation: Valuation | None
    """What the critic said; None without one."""

    gap: Mapping[str, float]
    """Between engine and learner, by metric name; empty where the learner takes its word."""

    signal: Mapping[str, float]
    """Gradient by term of the reward, by metric name; empty on steps that do not measure it."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What a step did, on this rank."""

    version: PolicyVersion
    """Of the policy that the step started with."""

    prepared: Prepared
    updates: Sequence[UpdateStats]
    """One per optimizer step; empty when no group taught anything, or the critic learns alone."""

    refit: Mapping[str, float]
    """What publishing took, by metric name; empty where the engine has no weights of its own."""

    stopwatch: Stopwatch
    critic: Sequence[UpdateStats] = ()
    """One per optimizer step of the critic; empty without one."""


def run_step(parts: StepParts, *, step: int) -> StepOutcome:
    """Sample, score, learn, publish.

    The engine holds the newest weights both when this is called and when it returns, so the
    caller may evaluate, checkpoint or stop between any two steps.

    Raises:
        JudgeUnavailable: Too many answers have no verdict; no weight has changed.
        NonFiniteUpdate: An update would have been NaN or infinite; no weight has changed by it.
        PolicyMismatch: Engine and learner are further apart than the recipe allows.
        RefitMismatch: The engine does not hold the weights it was given.
    """
    stopwatch, version = Stopwatch(), parts.learner.version
    with stopwatch.time("step"):
        collected = parts.collector.collect(step, stopwatch)
        prepared = prepare(parts, collected, stopwatch)
        critic = learn_values(parts, prepared, stopwatch)
        with stopwatch.time("update"):
            updates = [
                parts.learner.update(batch, parts.algorithm)
                for batch in policy_batches(parts, prepared, step=step)
            ]
        refit: Mapping[str, float] = {}
        if updates:
            with stopwatch.time("publish"):
                refit = parts.publisher.publish(updates[-1].version)
    return StepOutcome(
        version=version,
        prepared=prepared,
        updates=updates,
        refit=refit,
        stopwatch=stopwatch,
        critic=critic,
    )


def prepare(parts: StepParts, collected: Collected, stopwatch: Stopwatch) -> Prepared:
    """From scored samples to the batches of the step's updates; no weight changes.

    Raises:
        PolicyMismatch: Engine and learner are further apart than the recipe allows.
    """
    scored = charge_overlong(
        collected.for_training, parts.algorithm.overlong, max_tokens=parts.max_response_tokens
    )
    advantages = assign_advantages(scored, parts.algorithm, parts.credit)
    if parts.algorithm.whiten_advantages and parts.critic is None:
        advantages = whiten_advantages(advantages, parts.peers)
    packed = _pack(parts, advantages)
    # Counts are global, so all ranks leave out the same batches.
    useful = [batch for batch in packed if batch.num_global_samples > 0]
    samples = [one.sample for one in collected.for_training.scored]
    with stopwatch.time("logprobs"):
        # Before the first update: the proximal policy is the one that starts the step.
        batches = [parts.learner.add_logprobs(batch, parts.algorithm) for batch in useful]
    valuation = None
    if parts.critic is not None:
        with stopwatch.time("critic"):
            valuation = consult(parts.critic, batches, parts.algorithm, parts.peers)
            batches = list(valuation.batches)
    with stopwatch.time("logprobs"):
        corrected, gap = parts.guard.inspect(batches, samples)
    signal: Mapping[str, float] = {}
    if corrected:  # on all ranks alike
        signal = parts.gradient_parts.measure(
            parts.learner, advantages, corrected[0], pack=lambda batch: _pack(parts, batch)
        )
    return Prepared(
        collected=collected,
        advantages=advantages,
        packed=useful,
        batches=corrected,
        valuation=valuation,
        gap=gap,
        signal=signal,
    )


def _pack(parts: StepParts, advantages: AdvantageBatch) -> Sequence[PackedBatch]:
    return pack(
        advantages,
        config=parts.algorithm,
        max_response_tokens=parts.max_response_tokens,
        peers=parts.peers,
        cost=parts.cost,
    )


def learn_values(
    parts: StepParts, prepared: Prepared, stopwatch: Stopwatch
) -> Sequence[UpdateStats]:
    """Take the critic's optimizer steps, as many as the policy's; none without a critic.

    Raises:
        NonFiniteUpdate: An update would have been NaN or infinite; no weight has changed by it.
    """
    if parts.critic is None or prepared.valuation is None:
        return []
    with stopwatch.time("critic"):
        updates = [parts.critic.update(batch) for batch in prepared.valuation.values]
        parts.critic.leave()
    return updates


def policy_batches(parts: StepParts, prepared: Prepared, *, step: int) -> Sequence[TrainBatch]:
    """What the policy learns from; nothing while the critic learns alone."""
    is_alone = parts.critic is not None and parts.critic.learns_alone(step)
    return [] if is_alone else prepared.batches
