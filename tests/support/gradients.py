"""Gradients of two passes that should agree: in fp32 up to the order of sums, in bf16 nearly."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

# Float32 keeps 24 bits (6e-8); sums of a few hundred terms in another order move the last few of
# them, more where terms cancel (norm weights, biases). Relative to the tensor's norm.
FP32_RTOL = 4e-6

# bf16 keeps 8 bits: 4e-3 relative per operation, averaged over a batch of advantages near 1.
BF16_LOSS_ATOL = 2e-2
BF16_COSINE = 0.999

Pass = tuple[float, Mapping[str, Tensor]]
"""Loss, and gradients by name."""


def assert_same_pass(actual: Pass, expected: Pass, *, gradient_rtol: float = FP32_RTOL) -> None:
    """Loss and every gradient agree up to fp32 rounding."""
    (loss, gradients), (expected_loss, expected_gradients) = actual, expected
    assert loss == pytest.approx(expected_loss, rel=FP32_RTOL, abs=FP32_RTOL)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        size = expected_gradients[name].norm()
        difference = (gradient - expected_gradients[name]).norm()
        assert difference <= gradient_rtol * size, f"{name}: {difference / size:.1e}"


def assert_near_pass(actual: Pass, expected: Pass) -> None:
    """A pass in bf16 has nearly the loss of one in fp32, and its gradient points the same way."""
    (loss, gradients), (expected_loss, expected_gradients) = actual, expected
    assert loss == pytest.approx(expected_loss, abs=BF16_LOSS_ATOL)
    flat = torch.cat([gradients[name].flatten().float() for name in expected_gradients])
    wanted = torch.cat([gradient.flatten() for gradient in expected_gradients.values()])
    assert torch.cosine_similarity(flat, wanted, dim=0) > BF16_COSINE
