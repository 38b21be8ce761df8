"""What the trainer tells on the way, brought to the run's journal, checkpoints and stop request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from megatron_longrlvr.aligner.actor import Actor
from megatron_longrlvr.observability import names
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.loop import (
    TrainingRun,
    is_save_due,
    is_stop_asked,
    record,
    save,
)

if TYPE_CHECKING:
    from pandas import DataFrame

TIMERS_PREFIX = "timers/"

# Its durations, as they are called in metrics.jsonl. They nest: rollout holds generate,
# critic_wait and so on; the parts of a step under timing/ are measured inside of them.
TIMERS: Mapping[str, str] = {
    "rollout_time": names.ALIGNER_ROLLOUT_S,
    "prepare_for_inference": names.ALIGNER_PREPARE_FOR_INFERENCE_S,
    "batch_iterator_init": names.ALIGNER_BATCH_ITERATOR_INIT_S,
    "generate": names.ALIGNER_GENERATE_S,
    "logprobs": names.ALIGNER_LOGPROBS_S,
    "critic_wait": names.ALIGNER_CRITIC_WAIT_S,
    "finish_inference": names.ALIGNER_FINISH_INFERENCE_S,
    "train_time": names.ALIGNER_TRAIN_S,
    "validation_time": names.ALIGNER_VALIDATION_S,
}

# What it says of rollouts and updates, as far as the run does not say it already.
ROLLOUT_METRICS: Mapping[str, str | None] = {
    "prompt_lengths": names.ALIGNER_PROMPT_TOKENS_MEAN,
    "response_lengths": None,  # prompt and response together
    "generation_length": None,  # rollout/response_tokens_mean
    "rewards": None,  # reward/mean, but for invalid samples, which count as 0 there
    "rollout_size": None,  # rollout/samples
    "fraction_of_samples_properly_ended": None,  # rollout/truncated_frac and aborted samples
    "consumed_samples": names.ALIGNER_CONSUMED_SAMPLES,
    "epoch": None,  # the run is one epoch
}


class RunLogger:
    """Satisfies what the trainer asks of a logger; every rank calls it alike."""

    def __init__(self, run: TrainingRun, actor: Actor) -> None:
        self._run = run
        self._actor = actor
        self._said: dict[str, float] = {}

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, prefix: str) -> None:
        """Keep what a step says; its timers come last and end its record.

        Args:
            metrics: By the trainer's names.
            step: Counted from 0.
            prefix: Kind of metrics.
        """
        if prefix == TIMERS_PREFIX:
            said = {**self._said, **{TIMERS[name]: value for name, value in metrics.items()}}
            record(self._run, self._actor.take_outcome(), step=step + 1, extra=said)
            self._said = {}
        elif prefix == "train_rollouts/":
            for name, value in metrics.items():
                own = ROLLOUT_METRICS[name]
                if own is not None:
                    self._said[own] = float(value)
        # train_optim/ and val_rollouts/: the outcome and the evaluator say more.

    def log_table(self, key: str, dataframe: DataFrame, step: int) -> None:  # noqa: ARG002
        """Empty the table: ``samples/`` holds every response, and the trainer keeps all rows."""
        dataframe.drop(dataframe.index, inplace=True)

    def finalize(self) -> None:
        """Nothing: the journal is closed by who opened it."""


class RunClock:
    """Satisfies what the trainer asks of its run timer: whether it is time to stop."""

    def __init__(self, run: TrainingRun, stop: StopRequest) -> None:
        self._run = run
        self._stop = stop
        self.is_stopping = False

    def start_time(self) -> None:
        return

    def is_finished(self) -> bool:
        """Whether any rank was told to stop; every rank calls this."""
        self.is_stopping = is_stop_asked(self._run, self._stop)
        return self.is_stopping


class CheckpointCallback:
    """Satisfies what the trainer asks of NeMo's checkpoint callback, with our store behind it."""

    def __init__(self, run: TrainingRun, clock: RunClock) -> None:
        self._run = run
        self._clock = clock

    def custom_save(self, *, monitor_candidates: Mapping[str, Any], is_train_end: bool) -> None:  # noqa: ARG002
        """Save where the recipe's schedule says so; the trainer asks after every step."""
        step = int(monitor_candidates["step"])
        if is_save_due(self._run, step, is_stopping=self._clock.is_stopping):
            save(self._run, step=step)

    def save_before(self, step: int, *, prompt_cursor: int) -> None:
        """Save as it was before a step that could not be finished; its prompts come again."""
        save(self._run, step=step - 1, prompt_cursor=prompt_cursor)
        self._run.saver.finish()
