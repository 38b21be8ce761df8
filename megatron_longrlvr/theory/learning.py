"""GRPO on the small model: logits that climb on group-normalised advantages.

One step samples groups from the present citing probabilities, divides each group's centred
rewards by their standard deviation, and moves every logit along advantage times score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_longrlvr.theory.model import (
    Array,
    Payment,
    Setting,
    evidence_logit,
    reward_of,
    sigmoid,
)

# Keeps an all-equal group's advantages at 0 instead of 0/0.
_STD_FLOOR = 1e-6
# Probabilities stay inside (6e-6, 1 - 6e-6), so that no chunk is lost for ever.
_LARGEST_LOGIT = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How long and how fast."""

    num_steps: int = 400
    num_groups: int = 64
    group_size: int = 8
    learning_rate: float = 2.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """Means over the samples of each step; one value a step."""

    recall: Sequence[float]
    precision: Sequence[float]
    answer: Sequence[float]
    signal_share: Sequence[float]
    """Groups with spread in the reward."""


def learn(setting: Setting, payment: Payment, training: Training) -> LearningCurve:
    """Train from the setting's citing probabilities."""
    draw = np.random.default_rng(training.seed)
    g = setting.num_evidence
    p = setting.cite_probability
    logits = np.full(setting.num_chunks, np.log(p / (1 - p)))
    logits[:g] = evidence_logit(setting)
    rows = []
    for _ in range(training.num_steps):
        step, measured = _step(setting, payment, training, logits, draw)
        logits = np.clip(logits + step, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        rows.append(measured)
    recall, precision, answer, share = (list(column) for column in zip(*rows, strict=True))
    return LearningCurve(recall=recall, precision=precision, answer=answer, signal_share=share)


def _step(
    setting: Setting,
    payment: Payment,
    training: Training,
    logits: Array,
    draw: np.random.Generator,
) -> tuple[Array, tuple[float, float, float, float]]:
    """The change of all logits, and recall, precision, answer and share with signal."""
    shape = (training.num_groups, training.group_size)
    shift = np.zeros((*shape, setting.num_chunks))
    shift[..., : setting.num_evidence] = setting.coupling * draw.standard_normal((*shape, 1))
    p = sigmoid(logits + shift)
    cited = (draw.random(p.shape) < p).astype(np.float64)
    correct = cited[..., : setting.num_evidence].sum(-1)
    num_cited = cited.sum(-1)
    rewards = reward_of(payment, setting, correct=correct, wrong=num_cited - correct)
    centred = rewards - rewards.mean(1, keepdims=True)
    spread = rewards.std(1, ddof=1, keepdims=True)
    advantages = centred / (spread + _STD_FLOOR)
    step = training.learning_rate * (advantages[..., None] * (cited - p)).mean((0, 1))
    answers = reward_of(_ANSWER, setting, correct=correct, wrong=num_cited - correct)
    measured = (
        float((correct / setting.num_evidence).mean()),
        float((correct / np.maximum(num_cited, 1)).mean()),
        float(answers.mean()),
        float((spread > _STD_FLOOR).mean()),
    )
    return step, measured


_ANSWER = Payment(name="answer", variant="outcome_only")
