"""The policy as NeMo-Aligner's trainer sees it: samples, log-probabilities, gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.aligner.library import AlignableGenerativeInterface, FutureResult
from megatron_longrlvr.aligner.tensors import rollout_tensors
from megatron_longrlvr.aligner.work import StepWork
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.trainer.step import StepOutcome, StepParts


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFace:
    """The two things that the trainer asks of a tokenizer."""

    tokenizer: Tokenizer

    @property
    def eos_id(self) -> int:
        """Fills the places behind a response."""
        return self.tokenizer.pad_id

    def ids_to_text(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids)


class Actor(AlignableGenerativeInterface):  # type: ignore[misc] # untyped library
    """Our engine and our learner behind ``AlignableGenerativeInterface``.

    Inference and training take turns on the same ranks, so what prepares for one of them and what
    ends it has nothing to do, but for the engine's new weights.
    """

    # clip_gradients leaves to the optimizer what Megatron's optimizer does in its step.
    use_mcore_dist_optim = True
    with_megatron_fused_adam = False

    def __init__(self, parts: StepParts, tokenizer: Tokenizer) -> None:
        self.tokenizer = TokenizerFace(tokenizer=tokenizer)
        self._parts = parts
        self._published = parts.learner.version
        self._refit: Mapping[str, float] = {}
        self._work: StepWork | None = None

    @property
    def work(self) -> StepWork:
        """The step in progress, or the one that has just ended."""
        assert self._work is not None, "a step begins with begin_step"
        return self._work

    def begin_step(self, step: int) -> StepWork:
        """Start the records of a training step, counted from 1."""
        self._work = StepWork(self._parts, step=step)
        return self._work

    def take_outcome(self) -> StepOutcome:
        """What the step did, once its last update is done."""
        refit, self._refit = self._refit, {}
        return self.work.outcome(refit)

    def prepare_for_inference(self) -> None:
        """Refit: the engine gets the newest weights, where it has not got them yet."""
        version = self._parts.learner.version
        if version == self._published:
            return
        with self.work.stopwatch.time("publish"):
            self._refit = self._parts.publisher.publish(version)
        self._published = version

    def infer(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sample this rank's share of the step's prompts.

        Args:
            batch: ``place`` [B], of the samples that the trainer deals to this rank.
        """
        rollouts = self.work.sample()
        assert len(rollouts.samples) == len(batch["place"]), (
            f"{len(rollouts.samples)} samples for {len(batch['place'])} places"
        )
        return rollout_tensors(
            rollouts.samples,
            first_id=self.work.first_id(),
            pad_id=self.tokenizer.eos_id,
            device=device(),
        )

    def get_inference_log_probs(self, response_tokens: Tensor) -> Tensor:
        """Nothing yet: [B, 0].

        The trainer asks for them before it knows any reward, of samples whose groups it has taken
        apart. They are computed when groups are whole again and those that teach nothing are
        dropped, with a group's prompt computed once: see ``StepWork.prepare``.
        """
        return torch.zeros(len(response_tokens), 0, device=response_tokens.device)

    def finish_inference(self) -> None:
        return

    def prepare_for_training(self) -> None:
        return

    def prepare_for_training_step(self) -> None:
        return

    def get_loss_and_metrics(
        self, batch: Mapping[str, Tensor], forward_only: bool
    ) -> tuple[float, dict[str, float]]:
        """Forward and backward of one update, over all its micro-batches.

        Args:
            batch: ``update`` [1], from ``update_handles``.
            forward_only: False; the trainer never measures a loss alone.
        """
        assert not forward_only, "PPOTrainer asks for gradients only"
        update = int(batch["update"].item())
        return (self.work.accumulate(update) if update >= 0 else 0.0), {}

    def finish_training_step(self) -> None:
        """Nothing: gradients are reduced at the end of the schedule."""

    def finish_training(self) -> None:
        return


class StepOptimizer:
    """The learner's optimizer as the trainer steps it."""

    def __init__(self, actor: Actor, parts: StepParts) -> None:
        self._actor = actor
        self._learner = parts.learner

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._learner.optimizer.param_groups
        return groups

    def zero_grad(self) -> None:
        """Nothing: gradients are set to 0 where they are accumulated."""

    def step(self, closure: None = None) -> None:  # noqa: ARG002 - passed by name
        """Change the weights; a void update changes none."""
        self._actor.work.apply()


class VersionedSchedule:
    """The learning rate follows the policy version, so there is nothing to advance."""

    def step(self) -> None:
        return


class ContextRewardClient:
    """Our scorer in the place of a remote reward model, our critic in that of a remote critic."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def infer_rm_critic(self, rollout_batch: Mapping[str, Tensor]) -> PendingRewards:
        """Promise the rewards of a batch; answers are being judged already.

        The critic is asked later, as ``get_inference_log_probs`` is: of whole groups.
        """
        return PendingRewards(self._actor.work, rollout_batch["sample_ids"])

    def train(self, ppo_rollout_data: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        """Take the critic's updates of the step, where there is a critic.

        Args:
            ppo_rollout_data: Not read: batches, values and returns are the step's own.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank.
        """
        work = self._actor.work
        with work.stopwatch.time("step"):
            work.learn_values()

    def save(self) -> Done:
        """Nothing to wait for: a checkpoint holds policy and critic."""
        return Done()


class PendingRewards(FutureResult):  # type: ignore[misc] # untyped library
    """Rewards that are known once somebody asks."""

    def __init__(self, work: StepWork, sample_ids: Tensor) -> None:
        self._work = work
        self._sample_ids = sample_ids

    def result(self) -> tuple[Tensor, Tensor]:
        """Rewards [B] float64, 0 for samples whose reward is unknown; values [B], all 0 as yet.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.
        """
        earned = [scored.reward for scored in self._work.score().scored]
        rewards = torch.tensor(earned, dtype=torch.float64, device=self._sample_ids.device)
        return rewards, torch.zeros_like(rewards)


class Done(FutureResult):  # type: ignore[misc] # untyped library
    """A promise that is kept already."""

    def result(self) -> None:
        return
