"""Attention of samples that share a prompt, forward and backward, against float64 on the CPU."""

import pytest
import torch

from tests.support.gpu_bounds import ATTENTION_ERROR
from tests.support.gpu_checks import GROUPS, attention_errors
from tests.support.gpu_marks import needs_gpu

pytestmark = needs_gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "groups",
    [
        pytest.param(GROUPS, id="unequal"),
        pytest.param([(1024, (128,) * 4)], id="one-long-prompt"),
        pytest.param([(256, (9, 9)), (256, (9, 8))], id="padded-queries"),
        pytest.param([(100, ()), (1, (1,))], id="shortest"),
    ],
)
def test_shared_prompts_give_the_masked_softmax(groups, head_dim, dtype):
    errors = attention_errors(groups, dtype=dtype, head_dim=head_dim)
    assert max(errors.values()) < ATTENTION_ERROR[dtype], errors
