"""Rows padded to what FP8 takes have the loss and the gradients of rows that are not.

The policies compute in fp32: what is under test is the padding, not FP8. The expected side is one
rank without a padded token.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from megatron_longrlvr.config.acceleration import Fp8Config
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.parallel.groups import close_process_groups
from tests.support.gradients import assert_same_pass
from tests.support.learners import TEMPERATURE, gather_gradients, start_learner, start_policy
from tests.support.micro_batches import random_batch
from tests.support.tiny_models import save_tiny_model

ALGORITHM = AlgorithmConfig(micro_batch_tokens=64, entropy_coefficient=0.01)
TOKENS = {"delayed": 16, "mxfp8": 32, "blockwise": 128}


def one_pass(rank, world_size, folder, layout, kind):  # noqa: ARG001
    """Loss and gradients, and how many tokens each rank holds of each row."""
    policy = start_policy(folder, layout, world_size)
    if kind is not None:
        fp8 = TypeAdapter(Fp8Config).validate_python({"kind": kind})
        # Past the recipe's own check, which asks for Transformer Engine beside FP8.
        policy = replace(policy, model=policy.model.model_copy(update={"fp8": fp8}))
    learner = start_learner(policy, distributed=False)
    packed = random_batch(seed=3)
    batch = learner.add_logprobs(packed, ALGORITHM)
    local = policy.localize(packed.micro_batches)
    results = run_micro_batches(
        learner.wrapped,
        local,
        policy_gradient(batch, ALGORITHM),
        settings=policy.settings(TEMPERATURE),
        forward_only=False,
    )
    loss = learner._global_sums(results, ("loss",))["loss"]
    gradients = gather_gradients(learner)
    close_process_groups()
    return loss, gradients, [len(row.token_ids) for row in local]


@pytest.fixture(scope="module", params=["llama", "mixtral"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param
    save_tiny_model(path, request.param, num_layers=2)
    return path


@pytest.fixture(scope="module")
def reference(folder, pool1):
    return pool1.run(one_pass, folder, {}, None)[0]


@pytest.mark.parametrize("kind", TOKENS)
def test_padding_on_one_rank_changes_nothing(folder, pool1, reference, kind):
    *result, tokens = pool1.run(one_pass, folder, {}, kind)[0]
    assert all(count % TOKENS[kind] == 0 for count in tokens)
    assert tokens != reference[2], "some row was padded"
    assert_same_pass(result, reference[:2])


@pytest.mark.parametrize(
    ("layout", "kind", "shares"),
    [
        pytest.param({"tp": 2, "sequence_parallel": True}, "mxfp8", 2, id="tp2-sp"),
        pytest.param({"cp": 2}, "delayed", 1, id="cp2"),
    ],
)
def test_padding_of_shared_rows_changes_nothing(folder, pool2, reference, layout, kind, shares):
    for *result, tokens in pool2.run(one_pass, folder, layout, kind):
        assert all(count % (shares * TOKENS[kind]) == 0 for count in tokens)
        assert_same_pass(result, reference[:2])
