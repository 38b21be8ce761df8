"""The training loop of ``trainer.loop=nemo_aligner``: NeMo-Aligner's, around the parts of a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig, OmegaConf

from megatron_longrlvr.aligner.actor import (
    Actor,
    ContextRewardClient,
    StepOptimizer,
    VersionedSchedule,
)
from megatron_longrlvr.aligner.grpo import AlignerGRPOTrainer
from megatron_longrlvr.aligner.library import PRESENCE, STAND_INS
from megatron_longrlvr.aligner.places import (
    PlaceBatches,
    PlaceLoader,
    PlaceSampler,
    collate_places,
)
from megatron_longrlvr.aligner.ppo import AlignerPPOTrainer
from megatron_longrlvr.aligner.records import CheckpointCallback, RunClock, RunLogger
from megatron_longrlvr.aligner.stand_ins import describe_stand_ins
from megatron_longrlvr.aligner.trainer import AlignerTrainer
from megatron_longrlvr.trainer.interrupt import StopRequest
from megatron_longrlvr.trainer.loop import TrainingRun, evaluate, say_stopped


def train(run: TrainingRun, stop: StopRequest) -> bool:
    """Train to the last step or until asked to stop; every rank runs this alike.

    The same run as ``trainer.loop.train`` makes: the same records, checkpoints and errors.

    Returns:
        Whether the run got to its last step.

    Raises:
        JudgeUnavailable: Too many answers have no verdict. A checkpoint of what was learned so far
            is saved, so the same command goes on.
    """
    for line in describe_stand_ins(PRESENCE, STAND_INS):
        run.journal.say(line)
    if run.is_eval_due:
        evaluate(run, step=run.first_step)
    clock = RunClock(run, stop)
    trainer = build_trainer(run, clock)
    with _cheap_garbage_collection():
        trainer.fit()
    if clock.is_stopping and trainer.step < run.trainer.steps:
        say_stopped(run, trainer.step)
        return False
    return True


@contextmanager
def _cheap_garbage_collection() -> Iterator[None]:
    # The trainer collects garbage four times a step; what stands already need not be searched.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def build_trainer(run: TrainingRun, clock: RunClock) -> AlignerTrainer:
    """NeMo-Aligner's trainer around the parts of a run, gone on to its first step."""
    parts = run.parts
    actor = Actor(parts, run.tokenizer)

    def deal_places(consumed_samples: int) -> PlaceLoader:
        num_samples = _samples_per_step(run)
        sampler = PlaceSampler(
            consumed_samples=consumed_samples,
            total_samples=run.trainer.steps * num_samples,
            global_batch_size=num_samples,
            micro_batch_size=num_samples // parts.peers.size,
            dp_rank=parts.peers.rank,
        )
        return PlaceLoader(batch_sampler=sampler)

    algorithm = AlignerGRPOTrainer if parts.critic is None else AlignerPPOTrainer
    trainer = algorithm(
        run,
        cfg=trainer_config(run),
        model=actor,
        optimizer=StepOptimizer(actor, parts),
        scheduler=VersionedSchedule(),
        train_dataloader_builder=deal_places,
        val_dataloader_builder=deal_places,
        collate_fn=collate_places,
        rm_critic=ContextRewardClient(actor),
        batch_iterator_cls=PlaceBatches,
        logger=RunLogger(run, actor),
        ckpt_callback=CheckpointCallback(run, clock),
        run_timer=clock,
    )
    trainer.load_state_dict(
        {
            "step": run.first_step,
            "consumed_samples": run.first_step * _samples_per_step(run),
            "ppo_optimization_step": int(parts.learner.version),
        }
    )
    return trainer


def trainer_config(run: TrainingRun) -> DictConfig:
    """What ``PPOTrainer`` reads of its configuration, under its names."""
    is_measured = run.evaluator is not None and run.trainer.eval_every > 0
    return OmegaConf.create(
        {
            "max_epochs": 1,
            "max_steps": run.trainer.steps,
            # It asks after every step, and the recipe's schedules answer: its own intervals must
            # divide each other.
            "val_check_interval": int(is_measured),
            "save_interval": int(run.trainer.save_every > 0),
            # A row stands for an update (see update_handles): one on each rank.
            "model_gbs": run.parts.peers.size,
            "rollout_batch_seq_length": None,
            "gradient_clip_val": run.parts.learner.settings.optimizer.clip_grad,
            # The recipe's warm-up counts its steps: see AlignerPPOTrainer.
            "critic_warmup_steps": 0,
            # The learner adds the reference's log-probabilities and charges the divergence.
            "initial_policy_kl_penalty": 0.0,
        }
    )


def _samples_per_step(run: TrainingRun) -> int:
    rollout = run.parts.collector.rollout
    return rollout.prompts_per_step * rollout.group_size
