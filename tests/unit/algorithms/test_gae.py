"""Advantages and returns of a critic: by hand, at the ends of lambda, and behind padding."""

import pytest
import torch

from megatron_longrlvr.algorithms.gae import generalized_advantages


def estimates(rewards, values, *, gamma, lam, lengths=None):
    lengths = lengths or [len(row) for row in rewards]
    found = generalized_advantages(
        torch.tensor(rewards), torch.tensor(values), torch.tensor(lengths), gamma=gamma, lam=lam
    )
    return [estimate.tolist() for estimate in found]


def test_estimates_worked_out_by_hand():
    # deltas from the end: 1 - .75 = .25; .9 * .75 - .25 = .425; .9 * .25 - .5 = -.275
    # with .9 * .8 = .72: .25; .425 + .72 * .25 = .605; -.275 + .72 * .605 = .1606
    advantages, returns = estimates([[0.0, 0.0, 1.0]], [[0.5, 0.25, 0.75]], gamma=0.9, lam=0.8)
    assert advantages[0] == pytest.approx([0.1606, 0.605, 0.25])
    assert returns[0] == pytest.approx([0.6606, 0.855, 1.0])


def test_lambda_1_takes_the_value_from_what_was_earned_and_lambda_0_looks_one_token_ahead():
    rewards, values = [[0.25, 0.0, 2.0]], [[0.5, 0.25, 0.75]]
    advantages, returns = estimates(rewards, values, gamma=1.0, lam=1.0)
    assert advantages == [[2.25 - 0.5, 2.0 - 0.25, 2.0 - 0.75]]
    assert returns == [[2.25, 2.0, 2.0]]
    advantages, _ = estimates(rewards, values, gamma=1.0, lam=0.0)
    assert advantages == [[0.25 + 0.25 - 0.5, 0.75 - 0.25, 2.0 - 0.75]]


def test_padding_is_not_read_and_stays_zero():
    nan = float("nan")
    padded = estimates(
        [[1.0, nan, nan], [0.0, 0.5, 1.0]],
        [[0.25, nan, nan], [0.5, 0.25, 0.75]],
        lengths=[1, 3],
        gamma=0.9,
        lam=0.8,
    )
    short = estimates([[1.0]], [[0.25]], gamma=0.9, lam=0.8)
    long = estimates([[0.0, 0.5, 1.0]], [[0.5, 0.25, 0.75]], gamma=0.9, lam=0.8)
    for found, one, other in zip(padded, short, long, strict=True):
        assert found == [[*one[0], 0.0, 0.0], other[0]]


def test_no_response_has_no_estimate():
    nothing = torch.zeros(0, 0)
    lengths = torch.zeros(0, dtype=torch.int64)
    found = generalized_advantages(nothing, nothing, lengths, gamma=1.0, lam=1.0)
    assert [estimate.shape for estimate in found] == [(0, 0), (0, 0)]
