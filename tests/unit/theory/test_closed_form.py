"""Closed forms equal sums over all citations, known values, and the limits of the claim."""

import itertools
import math
from dataclasses import replace

import pytest

from megatron_longrlvr.config.task import ContextRewardConfig, RewardsConfig
from megatron_longrlvr.rewards.composite import compose_reward
from megatron_longrlvr.theory.closed_form import (
    all_others_cited,
    gradient,
    signal_share,
)
from megatron_longrlvr.theory.model import PAYMENTS, Setting, evidence_logit, shifts, sigmoid

EXACT_RTOL = 1e-9  # sums of a few hundred doubles
OUTCOME, ETA_ZERO, LONGRLVR, CONTEXT = PAYMENTS
SMALL = Setting(num_chunks=6, num_evidence=2, cite_probability=0.3)


def reward_by_product(payment, cited, *, has_partial_credit):
    """The reward as training computes it, from the set of cited chunks."""
    evidence = frozenset(range(SMALL.num_evidence))
    recall = len(evidence & set(cited)) / len(evidence)
    context = ContextRewardConfig(beta=payment.beta, eta=payment.eta)
    answer = recall if has_partial_credit else float(recall == 1)
    config = RewardsConfig(variant=payment.variant, context=context)
    return compose_reward(config, answer=answer, cited=cited, evidence=evidence).total


def all_citations():
    """Every subset of chunks with its probability."""
    p = SMALL.cite_probability
    for z in itertools.product((0, 1), repeat=SMALL.num_chunks):
        yield z, math.prod(p if bit else 1 - p for bit in z)


@pytest.mark.parametrize("has_partial_credit", [False, True])
@pytest.mark.parametrize("payment", PAYMENTS, ids=lambda payment: payment.name)
def test_gradient_is_the_sum_over_all_citations(payment, has_partial_credit):
    # d log Pr(z) / ds_0 = z_0 - p, summed over all 64 subsets with the product's own reward.
    expected = sum(
        chance
        * (z[0] - SMALL.cite_probability)
        * reward_by_product(
            payment,
            [chunk_id for chunk_id, bit in enumerate(z) if bit],
            has_partial_credit=has_partial_credit,
        )
        for z, chance in all_citations()
    )
    setting = replace(SMALL, has_partial_credit=has_partial_credit)
    assert gradient(setting, payment) == pytest.approx(expected, rel=EXACT_RTOL)


@pytest.mark.parametrize("payment", PAYMENTS, ids=lambda payment: payment.name)
def test_signal_share_is_one_minus_the_chance_of_equal_rewards(payment):
    chances = {}
    for z, chance in all_citations():
        cited = [chunk_id for chunk_id, bit in enumerate(z) if bit]
        reward = round(reward_by_product(payment, cited, has_partial_credit=False), 9)
        chances[reward] = chances.get(reward, 0) + chance
    expected = 1 - sum(chance**8 for chance in chances.values())
    assert signal_share(SMALL, payment, group_size=8) == pytest.approx(expected, rel=EXACT_RTOL)


@pytest.mark.parametrize("num_evidence", [1, 2, 4, 8])
def test_outcome_gradient_is_the_variance_times_the_chance_of_all_others(num_evidence):
    setting = Setting(num_chunks=64, num_evidence=num_evidence, cite_probability=1 / 16)
    expected = (1 / 16) * (15 / 16) * (1 / 16) ** (num_evidence - 1)
    assert gradient(setting, OUTCOME) == pytest.approx(expected, rel=EXACT_RTOL)
    assert all_others_cited(setting) == pytest.approx((1 / 16) ** (num_evidence - 1))


@pytest.mark.parametrize(
    ("payment", "least", "most"),
    [
        # (1/16)^(1 - 7): six evidence chunks more; the product term doubles it at most.
        pytest.param(OUTCOME, 0.999 * 16.0**6, 1.001 * 16.0**6, id="outcome"),
        pytest.param(ETA_ZERO, 16.0**6 / 2, 16.0**6 * 2, id="eta-zero"),
        # A share of F falls about as g grows, by four.
        pytest.param(CONTEXT, 1, 8, id="context"),
        pytest.param(LONGRLVR, 1, 16, id="longrlvr"),
    ],
)
def test_gradient_lost_from_two_to_eight_evidence_chunks(payment, least, most):
    few, many = (Setting(num_chunks=64, num_evidence=g, cite_probability=1 / 16) for g in (2, 8))
    assert least < gradient(few, payment) / gradient(many, payment) < most


def test_tiny_signal_shares_do_not_drown_in_rounding():
    setting = Setting(num_chunks=256, num_evidence=8, cite_probability=4 / 256)
    # q = 2^-48; of eight samples any one may be the right one: 8 q to first order.
    share = signal_share(setting, OUTCOME, group_size=8)
    assert share == pytest.approx(8 * 2.0**-48, rel=1e-6)


def test_coupling_keeps_each_citation_and_raises_the_chance_of_all():
    plain = Setting(num_chunks=64, num_evidence=4, cite_probability=1 / 16)
    coupled = replace(plain, coupling=3.0)
    values, weights = shifts(3.0)
    assert float(weights @ sigmoid(evidence_logit(coupled) + values)) == pytest.approx(1 / 16)
    assert all_others_cited(coupled) > 10 * all_others_cited(plain)
    assert evidence_logit(plain) == pytest.approx(math.log(1 / 15))
