"""NeMo-Aligner's PPO loop around a step's records.

``PPOTrainer.fit()`` keeps the order of things: refit, rollouts, rewards, the shuffle over
data-parallel ranks, the critic's updates and the policy's, validation, checkpoints, stopping. Three
of its methods are replaced here: ``run_validation`` asks our evaluator, and ``generate_rollouts``
and ``run_training`` are wrapped in a step's records. What a step learns from, and so
``generate_ppo_data``, is the affair of an algorithm: see :mod:`.grpo` and :mod:`.ppo`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from megatron_longrlvr.aligner.actor import Actor
from megatron_longrlvr.aligner.library import PPOTrainer, parallel_state, rebalance_nd_tensor
from megatron_longrlvr.aligner.records import CheckpointCallback
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.trainer.loop import TrainingRun, evaluate, is_eval_due
from megatron_longrlvr.trainer.step import Prepared

# What the loop expects of a validation; the evaluator has written the numbers already.
_NOTHING_TO_TELL = {"prompt": "", "response": "", "reward": 0.0}


class AlignerTrainer(PPOTrainer):  # type: ignore[misc] # untyped library
    """NeMo-Aligner's trainer on our learner, engine and rewards; an algorithm completes it."""

    model: Actor
    ckpt_callback: CheckpointCallback

    def __init__(self, run: TrainingRun, **parts: object) -> None:
        """Take the run whose held-out measurement it makes.

        Args:
            run: Of this rank.
            parts: What ``PPOTrainer`` takes.
        """
        super().__init__(**parts)
        self._run = run

    def generate_rollouts(self) -> Any:  # noqa: ANN401 - as upstream
        """Sample, score and prepare a step; the trainer counts steps from 0, records from 1."""
        work = self.model.begin_step(self.step + 1)
        try:
            with work.stopwatch.time("step"):
                return super().generate_rollouts()
        except JudgeUnavailable:
            self.ckpt_callback.save_before(work.step, prompt_cursor=work.prompt_cursor)
            raise

    def prepare(self, rollout_batch: Mapping[str, Tensor]) -> Prepared:
        """Put groups together again and make the batches that the step learns from.

        Args:
            rollout_batch: ``sample_ids`` and ``rewards`` [B] of samples that were dealt to this
                rank without regard to their groups.
        """
        # All data-parallel ranks are here; a group's samples may be on any of them.
        group = parallel_state.get_data_parallel_group()
        sample_ids = rebalance_nd_tensor(rollout_batch["sample_ids"], group).tolist()
        rewards = rebalance_nd_tensor(rollout_batch["rewards"], group).tolist()
        return self.model.work.prepare(dict(zip(sample_ids, rewards, strict=True)))

    def run_training(self, dataloader_iter: Iterable[Mapping[str, Tensor]]) -> Any:  # noqa: ANN401
        """Take the policy's updates of the step."""
        with self.model.work.stopwatch.time("step"):
            return super().run_training(dataloader_iter)

    def run_validation(self) -> dict[str, Any]:
        """Measure the policy where the recipe's schedule says so; the trainer asks every step."""
        if is_eval_due(self._run, self.step):
            self.model.prepare_for_inference()
            evaluate(self._run, step=self.step)
            self.model.finish_inference()
        return {"table": dict(_NOTHING_TO_TELL)}
