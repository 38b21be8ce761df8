"""No number depends on what memory happens to hold.

Weights are allocated without being filled and filled from a folder afterwards. One that a version
of megatron-core names otherwise, or adds, would stay as it was allocated, and logits would change
from run to run or, where fresh memory is zero, only be wrong. Here memory comes filled with NaN.
"""

from pathlib import Path

import pytest
import torch

from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.parallel.groups import close_process_groups
from tests.support.gradients import assert_same_pass
from tests.support.learners import gather_weights, start_learner, start_policy
from tests.support.micro_batches import random_batch
from tests.support.tiny_models import save_tiny_model

ALGORITHM = AlgorithmConfig(micro_batch_tokens=64, entropy_coefficient=0.01)


def one_step(rank, world_size, folder, layout, is_poisoned):  # noqa: ARG001
    """Loss and weights after an optimizer step."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(is_poisoned)
    try:
        assert bool(torch.empty(8).isnan().all()) == is_poisoned
        policy = start_policy(folder, layout, world_size)
        learner = start_learner(policy)
        batch = learner.add_logprobs(random_batch(seed=2), ALGORITHM)
        loss = learner.update(batch, ALGORITHM).metrics["loss"]
        weights = gather_weights(learner)
        close_process_groups()
    finally:
        torch.use_deterministic_algorithms(False)
    return loss, weights


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3_moe"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param
    save_tiny_model(path, request.param, num_layers=2, tie=request.param == "qwen2")
    return path


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
        pytest.param({"pp": 2}, id="pp2"),
    ],
)
def test_nan_in_fresh_memory_reaches_no_result(folder, pool2, layout):
    poisoned = pool2.run(one_step, folder, layout, True)
    for result, expected in zip(poisoned, pool2.run(one_step, folder, layout, False), strict=True):
        assert_same_pass(result, expected)
