"""The layout does not change the numbers.

Promise: loss, every gradient and the parameters after three optimizer steps of any layout equal
those of one rank, and those of one rank equal transformers with plain autograd. The loss sums
over tokens with global weights, so splitting samples over data-parallel ranks, tokens over
context-parallel ranks, or weights over tensor and pipeline ranks only reorders sums.

In bf16 a layout does change the numbers; how far is bounded below.

A mixture of experts keeps the promise as long as no token's experts are so close that rounding
chooses between them, which the drawn weights here see to.
"""

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch

from megatron_longrlvr.algorithms.policy_loss import PolicyLossInput, policy_loss
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.parallel.groups import close_process_groups
from tests.support.gradients import FP32_RTOL, assert_near_pass, assert_same_pass
from tests.support.learners import (
    TEMPERATURE,
    gather_gradients,
    gather_weights,
    start_learner,
    start_policy,
)
from tests.support.micro_batches import random_batch, segment_edges
from tests.support.tiny_models import MIXTURES, save_tiny_model, tiny_model

# Three Adam steps of at most lr = 1e-2. With eps at 1e-3 a weight whose gradient g is off by d
# moves by lr * d / (|g| + eps) too far: 10 * d at most, and d is about 1e-7.
PARAMETER_ATOL = 1e-5
ADAM = {"lr": 1e-2, "eps": 1e-3}

ALGORITHM = AlgorithmConfig(micro_batch_tokens=64, entropy_coefficient=0.01)
ONE_RANK = {}
LAYOUTS_OF_TWO = [
    pytest.param({"tp": 2}, id="tp2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
    pytest.param({"pp": 2, "vpp": 2}, id="pp2-vpp2"),
    pytest.param({"cp": 2}, id="cp2"),
    pytest.param({}, id="dp2"),
]
LAYOUTS_OF_FOUR = [
    pytest.param({"tp": 2, "pp": 2, "sequence_parallel": True}, id="tp2-sp-pp2"),
    pytest.param({"tp": 2, "cp": 2, "sequence_parallel": True}, id="tp2-sp-cp2"),
    pytest.param({"pp": 2, "cp": 2}, id="pp2-cp2"),
    pytest.param({"tp": 2}, id="tp2-dp2"),
    pytest.param({"cp": 4}, id="cp4"),
]

EXPERT_LAYOUTS_OF_TWO = [
    pytest.param({"ep": 2}, id="ep2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
    pytest.param({"cp": 2, "ep": 2}, id="cp2-ep2"),
]
EXPERT_LAYOUTS_OF_FOUR = [
    pytest.param({"tp": 2, "ep": 2, "sequence_parallel": True}, id="tp2-sp-ep2"),
    pytest.param({"pp": 2, "ep": 2}, id="pp2-ep2"),
    pytest.param({"ep": 2}, id="ep2-dp2"),
]


def one_pass(rank, world_size, folder, layout, model, seed):  # noqa: ARG001
    """Loss and gradients of one batch; proximal log-probabilities are the policy's own."""
    policy = start_policy(folder, layout, world_size, **model)
    learner = start_learner(policy, distributed=False)
    packed = _share(policy, seed)
    batch = learner.add_logprobs(packed, ALGORITHM)
    results = run_micro_batches(
        learner.wrapped,
        policy.localize(packed.micro_batches),
        policy_gradient(batch, ALGORITHM),
        settings=policy.settings(TEMPERATURE),
        forward_only=False,
    )
    loss = learner._global_sums(results, ("loss",))["loss"]
    gradients = gather_gradients(learner)
    close_process_groups()
    return loss, gradients


def three_steps(rank, world_size, folder, layout, optimizer):  # noqa: ARG001
    """Losses, gradient norms and final weights of three optimizer steps."""
    policy = start_policy(folder, layout, world_size)
    learner = start_learner(policy, **ADAM, **optimizer)
    stats = []
    for seed in range(3):
        batch = learner.add_logprobs(_share(policy, seed), ALGORITHM)
        metrics = learner.update(batch, ALGORITHM).metrics
        stats.append((metrics["loss"], metrics["grad_norm"], metrics["entropy_mean"]))
    weights = gather_weights(learner)
    close_process_groups()
    return stats, weights


def _share(policy, seed):
    groups = policy.groups
    return random_batch(seed=seed, share=groups.dp_rank, num_shares=groups.layout.dp)


@pytest.fixture(scope="module", params=["llama", "qwen2-tied", "qwen3"])
def folder(request, tmp_path_factory) -> Path:
    family, _, tie = request.param.partition("-")
    path = tmp_path_factory.mktemp("models") / request.param
    save_tiny_model(path, family, tie=bool(tie))
    return path


@pytest.fixture(scope="module", params=MIXTURES)
def mixture(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / request.param
    save_tiny_model(path, request.param)
    return path


@pytest.fixture(scope="module")
def mixture_reference(mixture, pool1):
    return pool1.run(one_pass, mixture, ONE_RANK, {}, 3)[0]


@pytest.fixture(scope="module")
def qwen3_moe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "qwen3_moe"
    save_tiny_model(path, "qwen3_moe")
    return path


@pytest.fixture(scope="module")
def mixture_steps(qwen3_moe, pool1):
    return pool1.run(three_steps, qwen3_moe, ONE_RANK, {})[0]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    save_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def reference(folder, pool1):
    return pool1.run(one_pass, folder, ONE_RANK, {}, 3)[0]


@pytest.fixture(scope="module")
def reference_steps(llama, pool1):
    return pool1.run(three_steps, llama, ONE_RANK, {})[0]


def assert_same_steps(actual, expected):
    stats, weights = actual
    expected_stats, expected_weights = expected
    for got, wanted in zip(stats, expected_stats, strict=True):
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(
            weight, expected_weights[name], atol=PARAMETER_ATOL, rtol=0, msg=name
        )


@pytest.mark.parametrize("layout", LAYOUTS_OF_TWO)
def test_two_ranks_give_the_loss_and_gradients_of_one(pool2, folder, reference, layout):
    for result in pool2.run(one_pass, folder, layout, {}, 3):
        assert_same_pass(result, reference)


@pytest.mark.parametrize("layout", LAYOUTS_OF_FOUR)
def test_four_ranks_give_the_loss_and_gradients_of_one(pool4, folder, reference, layout):
    for result in pool4.run(one_pass, folder, layout, {}, 3):
        assert_same_pass(result, reference)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS_OF_TWO)
def test_mixture_on_two_ranks_gives_the_loss_and_gradients_of_one(
    pool2, mixture, mixture_reference, layout
):
    for result in pool2.run(one_pass, mixture, layout, {}, 3):
        assert_same_pass(result, mixture_reference)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS_OF_FOUR)
def test_mixture_on_four_ranks_gives_the_loss_and_gradients_of_one(
    pool4, mixture, mixture_reference, layout
):
    for result in pool4.run(one_pass, mixture, layout, {}, 3):
        assert_same_pass(result, mixture_reference)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS_OF_TWO[:2])
def test_three_steps_of_a_mixture_on_two_ranks_end_at_the_weights_of_one(
    pool2, qwen3_moe, mixture_steps, layout
):
    for result in pool2.run(three_steps, qwen3_moe, layout, {}):
        assert_same_steps(result, mixture_steps)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS_OF_FOUR[1:])
def test_three_steps_of_a_mixture_on_four_ranks_end_at_the_weights_of_one(
    pool4, qwen3_moe, mixture_steps, layout
):
    for result in pool4.run(three_steps, qwen3_moe, layout, {}):
        assert_same_steps(result, mixture_steps)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS_OF_TWO[:1])
def test_three_steps_of_a_mixture_with_whole_optimizer_states(
    pool2, qwen3_moe, mixture_steps, layout
):
    for result in pool2.run(three_steps, qwen3_moe, layout, {"distributed": False}):
        assert_same_steps(result, mixture_steps)


@pytest.mark.parametrize("layout", EXPERT_LAYOUTS_OF_TWO[:1])
def test_recomputing_activations_of_a_mixture_changes_no_gradient(
    pool2, mixture, mixture_reference, layout
):
    for result in pool2.run(one_pass, mixture, layout, {"recompute": "full"}, 3):
        assert_same_pass(result, mixture_reference)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("layout", [LAYOUTS_OF_TWO[1], LAYOUTS_OF_TWO[2], LAYOUTS_OF_TWO[4]])
def test_recomputing_activations_changes_no_gradient(pool2, folder, reference, layout, recompute):
    for result in pool2.run(one_pass, folder, layout, {"recompute": recompute}, 3):
        assert_same_pass(result, reference)


@pytest.mark.parametrize("is_distributed", [True, False], ids=["sharded", "replicated"])
@pytest.mark.parametrize("layout", LAYOUTS_OF_TWO)
def test_three_steps_on_two_ranks_end_at_the_weights_of_one(
    pool2, llama, reference_steps, layout, is_distributed
):
    for result in pool2.run(three_steps, llama, layout, {"distributed": is_distributed}):
        assert_same_steps(result, reference_steps)


@pytest.mark.parametrize("layout", LAYOUTS_OF_FOUR)
def test_three_steps_on_four_ranks_end_at_the_weights_of_one(pool4, llama, reference_steps, layout):
    for result in pool4.run(three_steps, llama, layout, {}):
        assert_same_steps(result, reference_steps)


@pytest.mark.parametrize(
    ("family", "tie"),
    [*product(("llama", "qwen2", "qwen3"), (False, True)), ("mixtral", False), ("qwen3_moe", True)],
)
def test_one_rank_gives_the_loss_and_gradients_of_transformers(pool1, tmp_path, family, tie):
    save_tiny_model(tmp_path, family, tie=tie)
    (result,) = pool1.run(one_pass, tmp_path, ONE_RANK, {}, 3)
    loss, model = _transformers_pass(family, tie=tie, seed=3)
    # Another implementation of attention and norms: twice the room.
    assert_same_pass(result, (loss, _gradients_as_saved(model)), gradient_rtol=2 * FP32_RTOL)


def _gradients_as_saved(model):
    """By the names that transformers saves: experts stacked in memory, apart on disk."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    saved = {}
    for name, gradient in gradients.items():
        block = name.rpartition(".mlp.")[0]
        if name.endswith("experts.gate_up_proj"):
            for expert, (gate, up) in enumerate(part.chunk(2) for part in gradient):
                saved[expert_name(model, block, expert, "gate")] = gate
                saved[expert_name(model, block, expert, "up")] = up
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(gradient):
                saved[expert_name(model, block, expert, "down")] = down
        elif name.endswith("mlp.gate.weight") and model.config.model_type == "mixtral":
            saved[f"{block}.block_sparse_moe.gate.weight"] = gradient
        else:
            saved[name] = gradient
    return saved


def expert_name(model, block, expert, matrix):
    if model.config.model_type == "mixtral":
        letter = {"gate": "w1", "up": "w3", "down": "w2"}[matrix]
        return f"{block}.block_sparse_moe.experts.{expert}.{letter}.weight"
    return f"{block}.mlp.experts.{expert}.{matrix}_proj.weight"


def _transformers_pass(family, *, tie, seed):
    """The same loss, one unpacked sample at a time."""
    model = tiny_model(family, tie=tie)
    total = torch.zeros(())
    batch = random_batch(seed=seed)
    for micro_batch in batch.micro_batches:
        edges = segment_edges(micro_batch)
        for start, end in pairwise(edges):
            rows = slice(start + 1, end)
            mask = micro_batch.is_response[rows]
            logits = model(micro_batch.token_ids[None, start:end]).logits[0, :-1] / TEMPERATURE
            log_p = logits.log_softmax(-1)
            policy = log_p.gather(1, micro_batch.token_ids[rows, None])[:, 0][mask]
            inputs = PolicyLossInput(
                policy_logprobs=policy,
                proximal_logprobs=policy.detach(),
                behavior_logprobs=micro_batch.behavior_logprobs[rows][mask],
                advantages=micro_batch.advantages[rows][mask],
                loss_weights=micro_batch.loss_weights[rows][mask],
                entropy=-(log_p.exp() * log_p).sum(-1)[mask],
                reference_logprobs=None,
            )
            total = total + policy_loss(inputs, ALGORITHM).loss
    total.backward()
    return total.item(), model


@pytest.mark.parametrize("layout", LAYOUTS_OF_TWO)
def test_bf16_stays_near_the_fp32_gradients(pool2, llama, pool1, layout):
    (expected,) = pool1.run(one_pass, llama, ONE_RANK, {}, 3)
    for result in pool2.run(one_pass, llama, layout, {"dtype": "bf16"}, 3):
        assert_near_pass(result, expected)


def test_nan_gradient_stops_every_rank_before_the_weights_change(pool2, llama):
    for message, changed in pool2.run(poisoned_step, llama):
        assert "step 3: loss or gradients are not finite" in message
        assert not changed


def poisoned_step(rank, world_size, folder):
    policy = start_policy(folder, {}, world_size)
    learner = start_learner(policy)
    batch = learner.add_logprobs(_share(policy, 3), ALGORITHM)
    before = gather_weights(learner)
    if rank == 1:
        batch.packed.micro_batches[0].advantages.fill_(float("nan"))
    try:
        learner.update(batch, ALGORITHM)
        message = "no error"
    except RuntimeError as error:
        message = str(error)
    after = gather_weights(learner)
    close_process_groups()
    return message, any(not torch.equal(before[name], after[name]) for name in before)
