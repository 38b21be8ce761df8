"""Clipped policy loss: value and gradient by hand on both sides of every bound.

The loss is also compared with the papers' own form, min and max of surrogates, which the code
does not use. With ratio rho and advantage A the gradient by the log-probability is -A * rho inside
the bounds and 0 outside. GSPO is compared with the paper's form, one term for each response, and
CISPO with values worked out by hand.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.algorithms.policy_loss import (
    PolicyLossInput,
    mean_log_ratios,
    policy_loss,
    sum_names,
)
from megatron_longrlvr.config.training import KlConfig
from tests.unit.algorithms.builders import algorithm

CONFIG = algorithm(clip_low=0.2, clip_high=0.28, dual_clip=3.0)
FLOAT32_RTOL = 1e-5  # exp() and a few products in float32
FLOAT32_ATOL = 1e-6


def loss_input(log_ratios, advantages, *, weights=None, entropy=None, reference_logprobs=None):
    """Inputs of N tokens whose proximal log-probabilities are all -1."""
    log_ratio = torch.tensor(log_ratios, dtype=torch.float32)
    num_tokens = len(log_ratios)
    return PolicyLossInput(
        policy_logprobs=(log_ratio - 1.0).requires_grad_(),
        proximal_logprobs=torch.full((num_tokens,), -1.0),
        behavior_logprobs=torch.full((num_tokens,), -1.0),
        advantages=torch.tensor(advantages, dtype=torch.float32),
        loss_weights=torch.tensor(weights or [1.0] * num_tokens),
        entropy=torch.tensor(entropy or [0.0] * num_tokens, requires_grad=True),
        reference_logprobs=reference_logprobs,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        pytest.param(1.0, 2.0, -2.0, -2.0, id="on-policy"),
        pytest.param(1.1, 2.0, -2.2, -2.2, id="inside-rising"),
        pytest.param(0.5, 2.0, -1.0, -1.0, id="below-is-free-at-positive-advantage"),
        pytest.param(1.5, 2.0, -2.56, 0.0, id="clipped-high"),
        pytest.param(0.9, -2.0, 1.8, 1.8, id="inside-falling"),
        pytest.param(0.5, -2.0, 1.6, 0.0, id="clipped-low"),
        pytest.param(2.0, -2.0, 4.0, 4.0, id="above-is-free-at-negative-advantage"),
        pytest.param(5.0, -2.0, 6.0, 0.0, id="dual-clipped"),
        pytest.param(5.0, 0.0, 0.0, 0.0, id="no-advantage"),
    ],
)
def test_value_and_gradient_equal_hand_computed_ones(ratio, advantage, loss, gradient):
    inputs = loss_input([math.log(ratio)], [advantage])
    result = policy_loss(inputs, CONFIG)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss, rel=FLOAT32_RTOL)
    assert inputs.policy_logprobs.grad.item() == pytest.approx(gradient, rel=FLOAT32_RTOL)


def test_without_dual_clip_a_negative_advantage_has_no_upper_bound():
    inputs = loss_input([math.log(5.0)], [-2.0])
    config = algorithm(dual_clip=None)
    assert policy_loss(inputs, config).loss.item() == pytest.approx(10.0, rel=FLOAT32_RTOL)


@given(
    log_ratio=st.floats(min_value=-3, max_value=3, width=32),
    advantage=st.floats(min_value=-4, max_value=4, width=32),
)
def test_loss_equals_the_form_of_the_papers(log_ratio, advantage):
    ratio = math.exp(log_ratio)
    surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
    if advantage < 0:
        surrogate = max(surrogate, 3.0 * advantage)
    result = policy_loss(loss_input([log_ratio], [advantage]), CONFIG)
    assert result.loss.item() == pytest.approx(-surrogate, rel=FLOAT32_RTOL, abs=FLOAT32_ATOL)


def test_tokens_are_summed_by_their_weights():
    result = policy_loss(loss_input([0.0, 0.0], [2.0, -1.0], weights=[0.25, 0.5]), CONFIG)
    assert result.loss.item() == pytest.approx(0.25 * -2.0 + 0.5 * 1.0)


def test_entropy_is_rewarded_by_its_coefficient():
    inputs = loss_input([0.0, 0.0], [0.0, 0.0], weights=[0.5, 0.5], entropy=[2.0, 4.0])
    result = policy_loss(inputs, algorithm(entropy_coefficient=0.1))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-0.1 * (0.5 * 2.0 + 0.5 * 4.0))
    assert inputs.entropy.grad.tolist() == pytest.approx([-0.05, -0.05])


@pytest.mark.parametrize(
    ("place", "expected_loss"),
    [
        # policy -1, reference -2: k2 = 1/2; coefficient .3, weight .5
        pytest.param("loss", 0.3 * 0.5 * 0.5, id="loss"),
        pytest.param("reward", 0.0, id="reward"),
    ],
)
def test_divergence_enters_the_loss_only_in_its_place_and_is_always_summed(place, expected_loss):
    kl = KlConfig(coefficient=0.3, estimator="k2", place=place)
    inputs = loss_input([0.0], [0.0], weights=[0.5], reference_logprobs=torch.tensor([-2.0]))
    result = policy_loss(inputs, algorithm(kl=kl))
    assert result.loss.item() == pytest.approx(expected_loss)
    assert result.sums["kl"].item() == pytest.approx(0.5)


def test_divergence_penalty_pulls_towards_the_reference():
    # d/dpolicy k2 = policy - reference = 1
    kl = KlConfig(coefficient=0.3, estimator="k2", place="loss")
    inputs = loss_input([0.0], [0.0], reference_logprobs=torch.tensor([-2.0]))
    policy_loss(inputs, algorithm(kl=kl)).loss.backward()
    assert inputs.policy_logprobs.grad.item() == pytest.approx(0.3)


def test_sums_count_tokens_whatever_their_weight():
    log_ratios = [math.log(ratio) for ratio in (1.5, 1.5, 0.5, 5.0, 1.0)]
    inputs = loss_input(
        log_ratios, [1.0, -1.0, -1.0, -1.0, 1.0], weights=[0.1] * 5, entropy=[1.0] * 5
    )
    sums = policy_loss(inputs, CONFIG).sums
    assert sums["clipped_high"].item() == 1
    assert sums["clipped_low"].item() == 1
    assert sums["dual_clipped"].item() == 1
    assert sums["ratio"].item() == pytest.approx(9.5, rel=FLOAT32_RTOL)
    assert sums["entropy"].item() == pytest.approx(5.0)
    assert not any(value.requires_grad for value in sums.values())


def test_behavior_proximal_kl_is_k3_of_tokens_drawn_from_the_behavior_policy():
    # behavior -1, proximal -1 - log 2: d = -log 2 -> 1/2 - 1 + log 2
    inputs = loss_input([0.0], [1.0])
    shifted = replace(inputs, proximal_logprobs=inputs.proximal_logprobs - math.log(2))
    gap = policy_loss(shifted, CONFIG).sums["behavior_proximal_kl"]
    assert gap.item() == pytest.approx(math.log(2) - 0.5, rel=FLOAT32_RTOL)


@pytest.mark.parametrize("log_ratio", [-300.0, 300.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_far_off_ratios_leave_loss_and_gradient_finite(log_ratio, advantage):
    inputs = loss_input([log_ratio], [advantage])
    result = policy_loss(inputs, CONFIG)
    result.loss.backward()
    assert math.isfinite(result.loss.item())
    assert math.isfinite(inputs.policy_logprobs.grad.item())


@pytest.mark.parametrize("has_reference", [True, False])
def test_a_micro_batch_without_tokens_reports_zeros_under_the_same_names(has_reference):
    reference = torch.zeros(0) if has_reference else None
    result = policy_loss(loss_input([], [], reference_logprobs=reference), CONFIG)
    result.loss.backward()
    assert result.loss.item() == 0
    expected = dict.fromkeys(sum_names(has_reference=has_reference), 0.0)
    assert {name: value.item() for name, value in result.sums.items()} == expected


def test_penalty_without_reference_logprobs_is_our_mistake():
    config = algorithm(kl=KlConfig(coefficient=0.1))
    with pytest.raises(AssertionError, match="reference log-probabilities"):
        policy_loss(loss_input([0.0], [1.0]), config)


class OneRank:
    """What is asked of a process group when nothing is shared out."""

    def size(self):
        return 1


# Mean log-ratios 0.02, -0.1, 0.3 and 0: inside the bounds, below, above, and on the policy.
GSPO_RESPONSES = ([0.5, -0.46, 0.02], [-0.1], [0.2, 0.4], [0.0, 0.0])
GSPO = algorithm(loss="gspo", clip_low=0.05, clip_high=0.04, dual_clip=None)


@pytest.mark.parametrize("advantages", [(1.0, 2.0, 0.5, -1.0), (-1.0, -2.0, -0.5, 1.0)])
def test_gspo_has_value_and_gradient_of_the_papers_form(advantages):
    log_ratios = [value for response in GSPO_RESPONSES for value in response]
    segments = [i for i, response in enumerate(GSPO_RESPONSES) for _ in response]
    inputs = loss_input(
        log_ratios,
        [advantages[i] for i in segments],
        weights=[1 / len(GSPO_RESPONSES[i]) / len(GSPO_RESPONSES) for i in segments],
    )
    means = mean_log_ratios(
        inputs.policy_logprobs - inputs.proximal_logprobs,
        torch.tensor(segments),
        num_segments=len(GSPO_RESPONSES),
        group=OneRank(),
    )
    result = policy_loss(replace(inputs, mean_log_ratios=means), GSPO)
    result.loss.backward()

    policy = torch.tensor(log_ratios, requires_grad=True)
    terms = []
    for response, advantage in zip(
        policy.split([len(response) for response in GSPO_RESPONSES]), advantages, strict=True
    ):
        ratio = response.mean().exp()
        terms.append(torch.min(ratio * advantage, ratio.clamp(0.95, 1.04) * advantage))
    papers = -torch.stack(terms).mean()
    papers.backward()
    assert result.loss.item() == pytest.approx(papers.item(), rel=FLOAT32_RTOL)
    torch.testing.assert_close(
        inputs.policy_logprobs.grad, policy.grad, rtol=FLOAT32_RTOL, atol=FLOAT32_ATOL
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        # The log-probability of the policy is log(ratio) - 1.
        pytest.param(1.0, 2.0, 2.0, -2.0, 0, id="on-policy"),
        pytest.param(2.0, -1.5, 3.0 * (math.log(2.0) - 1), 3.0, 0, id="inside"),
        pytest.param(8.0, 1.0, -5.0 * (math.log(8.0) - 1), -5.0, 1, id="cut-but-learned-from"),
        pytest.param(0.1, -1.0, 0.1 * (math.log(0.1) - 1), 0.1, 0, id="no-lower-bound"),
    ],
)
def test_cispo_cuts_weights_and_never_a_gradient(ratio, advantage, loss, gradient, clipped):
    inputs = loss_input([math.log(ratio)], [advantage])
    result = policy_loss(inputs, algorithm(loss="cispo", clip_high=4.0))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss, rel=FLOAT32_RTOL)
    assert inputs.policy_logprobs.grad.item() == pytest.approx(gradient, rel=FLOAT32_RTOL)
    assert result.sums["clipped_high"].item() == clipped
