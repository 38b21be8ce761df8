"""The recipe of a training run.

A recipe states every setting that matters to its reader; what it leaves out takes the default
written on the field. Nothing here changes a value after it was read.
"""

from __future__ import annotations

from typing import Literal

from megatron_longrlvr.config.alarms import AlarmsConfig
from megatron_longrlvr.config.critic import CriticConfig
from megatron_longrlvr.config.policy import LayoutConfig, ModelConfig, OptimizerConfig
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.config.task import DataConfig, EvaluationConfig, RewardsConfig
from megatron_longrlvr.config.training import (
    AlgorithmConfig,
    RolloutConfig,
    RunSection,
    TrainerConfig,
)


class TrainConfig(Section):
    """A GRPO or PPO run: ``longrlvr train``."""

    kind: Literal["train"]
    run: RunSection
    model: ModelConfig
    layout: LayoutConfig = LayoutConfig()
    data: DataConfig
    rollout: RolloutConfig
    rewards: RewardsConfig = RewardsConfig()
    algorithm: AlgorithmConfig
    optimizer: OptimizerConfig
    critic: CriticConfig | None = None
    """Given with ``algorithm.advantage=gae`` and with no other."""

    trainer: TrainerConfig
    evaluation: EvaluationConfig | None = None
    alarms: AlarmsConfig = AlarmsConfig()
