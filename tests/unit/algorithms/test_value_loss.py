"""The value loss by hand, on both sides of its bound."""

import pytest
import torch

from megatron_longrlvr.algorithms.value_loss import SUM_NAMES, ValueLossInput, value_loss


def loss_of(values, old_values, returns, *, clip, weights=None):
    values = torch.tensor(values, requires_grad=True)
    inputs = ValueLossInput(
        values=values,
        old_values=torch.tensor(old_values),
        returns=torch.tensor(returns),
        loss_weights=torch.tensor(weights or [1.0] * len(returns)),
    )
    loss, sums = value_loss(inputs, clip=clip)
    loss.backward()
    assert tuple(sums) == SUM_NAMES
    return loss.item(), values.grad.tolist(), {name: one.item() for name, one in sums.items()}


def test_loss_worked_out_by_hand():
    # Returns of 1, old values of 0, a bound of .25:
    # .2 is within the bound: .8^2; its gradient .2 - 1 = -.8
    # .5 has moved too far towards the return: the bound's .75^2 > .5^2, and no gradient
    # -.5 has moved too far away from it: its own 1.5^2 > 1.25^2, with its gradient
    loss, gradient, sums = loss_of([0.2, 0.5, -0.5], [0.0] * 3, [1.0] * 3, clip=0.25)
    assert loss == pytest.approx((0.64 + 0.5625 + 2.25) / 2)
    assert gradient == pytest.approx([-0.8, 0.0, -1.5])
    assert sums == pytest.approx({"clipped": 1.0, "square_error": 0.64 + 0.25 + 2.25})


def test_without_a_bound_it_is_half_the_weighted_square():
    weights = [0.5, 0.25]
    loss, gradient, sums = loss_of([0.5, -1.0], [0.0] * 2, [1.0] * 2, clip=None, weights=weights)
    assert loss == pytest.approx((0.5 * 0.25 + 0.25 * 4.0) / 2)
    assert gradient == pytest.approx([0.5 * -0.5, 0.25 * -2.0])
    assert sums["clipped"] == 0


def test_no_token_has_no_loss():
    assert loss_of([], [], [], clip=0.2) == (0.0, [], {"clipped": 0.0, "square_error": 0.0})
