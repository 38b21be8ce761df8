"""Divergence estimators: values by hand, expectations against the closed form.

The expectations are exact sums over a small vocabulary, not samples: the estimators are functions
of a token's two log-probabilities, so their mean under the policy is a finite sum.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.algorithms.kl import ESTIMATORS, k1, k2, k3, kl_in_reward
from megatron_longrlvr.config.training import KlConfig

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
FLOAT64_RTOL = 1e-12  # a dozen float64 operations
FLOAT32_RTOL = 1e-6  # a few float32 operations


def kl(left, right):
    return (left * (left / right).log()).sum()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # policy 1/2, reference 1/4: d = -log 2
        pytest.param("k1", math.log(2), id="k1"),
        pytest.param("k2", math.log(2) ** 2 / 2, id="k2"),
        pytest.param("k3", 0.5 - 1 + math.log(2), id="k3"),
    ],
)
def test_estimates_equal_hand_computed_values(estimator, expected):
    value = ESTIMATORS[estimator](torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
    assert value.tolist() == pytest.approx([expected], rel=FLOAT32_RTOL)


@pytest.mark.parametrize("estimate", [pytest.param(k1, id="k1"), pytest.param(k3, id="k3")])
def test_unbiased_estimators_average_to_the_divergence(estimate):
    average = (POLICY * estimate(POLICY.log(), REFERENCE.log())).sum()
    assert average.item() == pytest.approx(kl(POLICY, REFERENCE).item(), rel=FLOAT64_RTOL)


@pytest.mark.parametrize(
    ("estimator", "divergence"),
    [
        pytest.param("k1", lambda policy: 0 * policy.sum(), id="k1-pulls-nowhere"),
        pytest.param("k2", lambda policy: kl(policy, REFERENCE), id="k2-policy-to-reference"),
        pytest.param("k3", lambda policy: kl(REFERENCE, policy), id="k3-reference-to-policy"),
    ],
)
def test_mean_gradient_as_a_loss_term(estimator, divergence):
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(dim=0)
    term = (POLICY * ESTIMATORS[estimator](logprobs, REFERENCE.log())).sum()
    (pull,) = torch.autograd.grad(term, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(divergence(logprobs.exp()), logits)
    torch.testing.assert_close(pull, expected, rtol=FLOAT64_RTOL, atol=1e-14)


@given(
    policy=st.floats(min_value=-30, max_value=0, width=32),
    reference=st.floats(min_value=-200, max_value=0, width=32),
)
def test_k2_and_k3_are_finite_and_never_negative(policy, reference):
    pair = torch.tensor([policy]), torch.tensor([reference])
    rounding = 1e-6  # expm1(d) and d cancel where d is small
    for estimate in (k2, k3):
        value = estimate(*pair).item()
        assert math.isfinite(value)
        assert value >= -rounding


def test_k3_stays_finite_where_the_policy_has_all_but_given_a_token_up():
    logprobs = torch.tensor([-500.0], requires_grad=True)
    value = k3(logprobs, torch.tensor([-1.0])).sum()
    value.backward()
    assert math.isfinite(value.item())
    assert logprobs.grad.tolist() == [0.0]


def test_charge_in_the_reward_is_taken_from_each_token_by_itself():
    # k1: kl = (.5, -.25, 0); A - 2 kl; the last position is outside of a response
    charged = kl_in_reward(
        torch.tensor([1.0, 1.0, 0.0]),
        policy_logprobs=torch.tensor([-1.0, -1.0, 0.0], requires_grad=True),
        reference_logprobs=torch.tensor([-1.5, -0.75, 0.0]),
        config=KlConfig(coefficient=2.0, estimator="k1", place="reward"),
    )
    assert charged.tolist() == [0.0, 1.5, 0.0]
    assert not charged.requires_grad


def test_every_estimator_of_the_schema_has_a_function():
    assert set(KlConfig.model_fields["estimator"].annotation.__args__) == set(ESTIMATORS)
