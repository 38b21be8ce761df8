"""The learning rate of each optimizer step, worked out by hand."""

import pytest

from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.model.optimizer import learning_rate


def rate(step, **changes):
    config = OptimizerConfig(**{"lr": 0.8, "min_lr": 0.2, "warmup_steps": 4, **changes})
    return learning_rate(config, step=step, num_steps=12)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.2), (1, 0.4), (3, 0.8), (4, 0.8), (11, 0.8), (99, 0.8)]
)
def test_constant_after_a_linear_warm_up(step, expected):
    assert rate(step) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    # 8 steps of decay from .8 to .2: .075 a step.
    [(4, 0.8), (5, 0.725), (8, 0.5), (12, 0.2), (50, 0.2)],
)
def test_linear_decay_ends_at_the_minimum(step, expected):
    assert rate(step, schedule="linear") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    # .2 + .6 * (1 + cos(pi * progress)) / 2 at progress 0, 1/2, 1.
    [(4, 0.8), (8, 0.5), (12, 0.2)],
)
def test_cosine_decay_passes_the_middle_half_way(step, expected):
    assert rate(step, schedule="cosine") == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rate(0, warmup_steps=0) == pytest.approx(0.8)
