"""The training loop: steps, and what is due between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megatron_longrlvr.checkpoint.run_state import RunState
from megatron_longrlvr.config.training import TrainerConfig
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.evaluation.runner import Evaluator
from megatron_longrlvr.model.precision import row_multiple
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.heartbeat import beat
from megatron_longrlvr.parallel.collectives import all_ranks_agree
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.trainer.diagnostics import Diagnostics
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.journal import Journal
from megatron_longrlvr.trainer.report_step import save_heldout, save_samples, step_metrics
from megatron_longrlvr.trainer.run_dir import PROMPTS_DIGEST, RunDir
from megatron_longrlvr.trainer.saving import Saver
from megatron_longrlvr.trainer.schedule import Every
from megatron_longrlvr.trainer.step import StepOutcome, StepParts, run_step
from megatron_longrlvr.trainer.workload import Workload

EVAL_DUE = "eval_due"
"""Key of a run state: the measurement that belongs to its step could not be made."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run on this rank, ready to go on after ``first_step``."""

    parts: StepParts
    evaluator: Evaluator | None
    trainer: TrainerConfig
    diagnostics: Diagnostics
    groups: ProcessGroups
    tokenizer: Tokenizer
    run_dir: RunDir
    journal: Journal
    first_step: int
    """Training steps that earlier starts have done."""

    is_eval_due: bool
    """Whether the policy after ``first_step`` is still to be measured."""

    prompts_digest: str
    """Of the training prompts; empty where the recipe alone decides what they are."""

    saver: Saver

    close: Callable[[], None]
    """Lets go of the judge and of the engine."""


def train(run: TrainingRun, stop: StopRequest) -> bool:
    """Train to the last step or until asked to stop; every rank runs this alike.

    Returns:
        Whether the run got to its last step.

    Raises:
        JudgeUnavailable: Too many answers have no verdict. A checkpoint of what was learned so far
            is saved, so the same command goes on.
    """
    if run.is_eval_due:
        evaluate(run, step=run.first_step)
    for step in range(run.first_step + 1, run.trainer.steps + 1):
        record(run, _step(run, step), step=step)
        if is_eval_due(run, step):
            evaluate(run, step=step)
        is_asked = is_stop_asked(run, stop)
        if is_save_due(run, step, is_stopping=is_asked):
            save(run, step=step)
        if is_asked and step < run.trainer.steps:
            say_stopped(run, step)
            return False
    return True


def record(
    run: TrainingRun,
    outcome: StepOutcome,
    *,
    step: int,
    extra: Mapping[str, float] | None = None,
) -> None:
    """Write what a step did, and its samples where they are due; every rank calls this.

    Args:
        run: Of this rank.
        outcome: What the step did.
        step: Counted from 1.
        extra: Further metrics by name.
    """
    run.saver.poll()
    scored = outcome.prepared.collected.scored
    metrics = {**step_metrics(outcome, run.groups, _workload(run)), **(extra or {})}
    metrics[names.TIMING_SAVE_BLOCKED_S] = run.saver.take_blocked_s()
    metrics.update(run.diagnostics.measure(scored, metrics))
    run.journal.record_step(step, metrics)
    run.diagnostics.raise_alarms(scored, metrics, run_dir=run.run_dir.path, journal=run.journal)
    _warn_of_repeated_prompts(run, step, metrics)
    if Every(run.trainer.sample_every).is_due(step) or step == run.trainer.steps:
        save_samples(scored, run.groups, run.run_dir.path, suspect=run.diagnostics.suspect)


def is_eval_due(run: TrainingRun, step: int) -> bool:
    """Whether the policy is measured after this step."""
    return Every(run.trainer.eval_every).is_due(step) or step == run.trainer.steps


def is_save_due(run: TrainingRun, step: int, *, is_stopping: bool) -> bool:
    """Whether a checkpoint is written after this step."""
    if run.saver.is_owed:
        return True
    is_end = is_stopping or step == run.trainer.steps
    return Every(run.trainer.save_every).is_due(step) or (is_end and run.trainer.save_every > 0)


def is_stop_asked(run: TrainingRun, stop: StopRequest) -> bool:
    """Whether any rank was told to stop; every rank calls this."""
    # A signal reaches the ranks at different moments; they stop after the same step.
    return not all_ranks_agree(stop.signal_name is None, run.groups.world)


def say_stopped(run: TrainingRun, step: int) -> None:
    """Tell that the run ends early, once its checkpoint is complete; every rank calls this."""
    run.saver.finish()
    then = "goes on" if run.trainer.save_every else "starts anew, for trainer.save_every=0"
    run.journal.say(f"stopped after step {step}, as asked; the same command {then}")


def _workload(run: TrainingRun) -> Workload:
    learner, algorithm, critic = run.parts.learner, run.parts.algorithm, run.parts.critic
    passes = int(algorithm.proximal == "recompute") + int(learner.reference is not None)
    policy, layout = learner.policy, run.groups.layout
    return Workload(
        spec=policy.spec,
        layout=layout,
        row_multiple=row_multiple(layout, policy.model.fp8),
        num_logprob_passes=passes,
        critic=None if critic is None else critic.network.spec,
    )


def _warn_of_repeated_prompts(run: TrainingRun, step: int, metrics: Mapping[str, float]) -> None:
    repeated = metrics.get(names.PACKING_REPEATED_PROMPT_FRAC, 0.0)
    if repeated and step == run.first_step + 1:
        run.journal.say(
            f"groups do not fit into algorithm.micro_batch_tokens: {repeated:.0%} of the tokens of "
            "the update are prompts computed again (packing/repeated_prompt_frac)"
        )


def evaluate(run: TrainingRun, *, step: int) -> None:
    """Measure the policy after ``step``, where the recipe measures at all; every rank calls this.

    Raises:
        JudgeUnavailable: Too many verdicts are missing; a checkpoint says that this is due.
    """
    if run.evaluator is None or run.trainer.eval_every == 0:
        return
    try:
        metrics, scored = run.evaluator.evaluate()
    except JudgeUnavailable:
        save(run, step=step, extra={EVAL_DUE: 1})
        run.saver.finish()
        raise
    run.journal.record_eval(step, metrics)
    save_heldout(
        scored,
        run.groups,
        run.run_dir.path,
        step=step,
        num_prompts=run.trainer.eval_samples,
        suspect=run.diagnostics.suspect,
    )
    run.saver.note_measured(step, metrics)
    beat()


def _step(run: TrainingRun, step: int) -> StepOutcome:
    prompt_cursor = run.parts.collector.sampler.cursor()
    try:
        return run_step(run.parts, step=step)
    except JudgeUnavailable:
        # The prompts of this step taught nothing: they are drawn again.
        save(run, step=step - 1, prompt_cursor=prompt_cursor)
        run.saver.finish()
        raise


def save(
    run: TrainingRun,
    *,
    step: int,
    prompt_cursor: int | None = None,
    extra: Mapping[str, int] | None = None,
) -> None:
    """Begin a checkpoint of the learner as it is after ``step``; every rank calls this.

    That of the last step is complete when this returns.
    """
    learner, critic = run.parts.learner, run.parts.critic
    sampler = run.parts.collector.sampler
    known = {PROMPTS_DIGEST: run.prompts_digest} if run.prompts_digest else {}
    state = RunState(
        step=step,
        policy_version=learner.version,
        critic_version=0 if critic is None else critic.version,
        prompt_cursor=sampler.cursor() if prompt_cursor is None else prompt_cursor,
        extra={**known, **(extra or {})},
    )
    if prompt_cursor is None:
        run.saver.save(state, sampler.unused)
    else:  # the steps to come are drawn again with the one that was lost
        run.saver.save(state)
    if step == run.trainer.steps:
        run.saver.finish()
