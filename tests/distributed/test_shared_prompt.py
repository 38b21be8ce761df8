"""Computing a group's prompt once changes neither the loss nor a gradient, on any layout.

The expected side is one rank that computes the prompt again for every sample. Groups of 8, 1, 2
and 3 samples with unequal responses stand together in one row; responses of one token have
nothing but the prompt to read.
"""

from pathlib import Path

import pytest

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.parallel.groups import close_process_groups
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from tests.support.gradients import assert_near_pass, assert_same_pass
from tests.support.learners import TEMPERATURE, gather_gradients, start_learner, start_policy
from tests.support.sample_groups import joined, random_groups
from tests.support.tiny_models import save_tiny_model

LOGPROB_ATOL = 1e-5  # float32 sums in another order

SHARED = {"shared_prompt": True, "micro_batch_tokens": 200}
REPEATED = {"shared_prompt": False, "micro_batch_tokens": 200}
# [21 | 9 7 5] leaves no room: the first group is split, and its prompt repeated.
SPLIT = {"shared_prompt": True, "micro_batch_tokens": 43}

LAYOUTS_OF_TWO = [
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
    pytest.param({"pp": 2, "vpp": 2}, id="pp2-vpp2"),
    pytest.param({"cp": 2}, id="cp2"),
    pytest.param({}, id="dp2"),
]
LAYOUTS_OF_FOUR = [
    pytest.param({"tp": 2, "cp": 2, "sequence_parallel": True}, id="tp2-sp-cp2"),
    pytest.param({"pp": 2, "cp": 2}, id="pp2-cp2"),
    pytest.param({"cp": 4}, id="cp4"),
]
# Losses that tell responses apart or weigh tokens, away from the policy that sampled.
OTHER_LOSSES = [
    pytest.param({"loss": loss, "proximal": "behavior", **bounds}, id=loss)
    for loss, bounds in (
        ("gspo", {"clip_low": 0.9, "clip_high": 3.0, "normalizer": "sequence_mean"}),
        ("cispo", {"clip_high": 4.0}),
    )
]
LAYOUT_OF_EIGHT = {"tp": 2, "pp": 2, "cp": 2, "sequence_parallel": True}


def one_pass(rank, world_size, folder, layout, algorithm, model):  # noqa: ARG001
    """Loss, gradients and log-probabilities of every response token, by sample."""
    policy = start_policy(folder, layout, world_size, **model)
    learner = start_learner(policy, distributed=False)
    config = AlgorithmConfig(entropy_coefficient=0.01, **algorithm)
    groups = policy.groups
    mine = joined(random_groups(seed=7)[groups.dp_rank :: groups.layout.dp])
    (packed,) = pack(mine, config=config, max_response_tokens=16, peers=data_parallel_peers(groups))
    batch = learner.add_logprobs(packed, config)
    results = run_micro_batches(
        learner.wrapped,
        policy.localize(packed.micro_batches),
        policy_gradient(batch, config),
        settings=policy.settings(TEMPERATURE),
        forward_only=False,
    )
    loss = learner._global_sums(results, ("loss",))["loss"]
    logprobs = by_sample(packed.micro_batches, batch.proximal_logprobs)
    gradients = gather_gradients(learner)
    close_process_groups()
    return loss, gradients, logprobs


def by_sample(micro_batches, rows):
    """Log-probabilities of each sample's response tokens."""
    found = {}
    for micro_batch, row in zip(micro_batches, rows, strict=True):
        values = row[micro_batch.is_response].tolist()
        lengths = {
            f"{group.scored[0].sample.prompt.prompt_id}/{scored.sample.sample_index}": len(
                scored.sample.token_ids
            )
            for group in random_groups(seed=7)
            for scored in group.scored
        }
        for name in micro_batch.sample_ids:
            found[name], values = values[: lengths[name]], values[lengths[name] :]
        assert not values
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    save_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def reference(folder, pool1):
    """Every prompt computed again for each sample, on one rank."""
    return pool1.run(one_pass, folder, {}, REPEATED, {})[0]


def assert_same_results(results, expected):
    *expected_pass, expected_logprobs = expected
    seen = set()
    for *result, logprobs in results:
        assert_same_pass(result, expected_pass)
        for name, values in logprobs.items():
            assert values == pytest.approx(expected_logprobs[name], abs=LOGPROB_ATOL), name
        seen |= set(logprobs)
    assert seen == set(expected_logprobs), "some sample was packed nowhere"


@pytest.mark.parametrize("algorithm", [SHARED, SPLIT], ids=["whole", "split"])
def test_one_rank_gives_what_repeated_prompts_give(pool1, folder, reference, algorithm):
    assert_same_results(pool1.run(one_pass, folder, {}, algorithm, {}), reference)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("layout", LAYOUTS_OF_TWO)
def test_two_ranks_give_what_repeated_prompts_give(pool2, folder, reference, layout, recompute):
    results = pool2.run(one_pass, folder, layout, SHARED, {"recompute": recompute})
    assert_same_results(results, reference)


@pytest.mark.parametrize("layout", LAYOUTS_OF_FOUR)
def test_four_ranks_give_what_repeated_prompts_give(pool4, folder, reference, layout):
    assert_same_results(pool4.run(one_pass, folder, layout, SPLIT, {}), reference)


def test_eight_ranks_give_what_repeated_prompts_give(pool8, folder, reference):
    assert_same_results(pool8.run(one_pass, folder, LAYOUT_OF_EIGHT, SHARED, {}), reference)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families_give_what_repeated_prompts_give(pool1, pool2, tmp_path, family):
    save_tiny_model(tmp_path, family, tie=True)
    expected = pool1.run(one_pass, tmp_path, {}, REPEATED, {})[0]
    assert_same_results(pool2.run(one_pass, tmp_path, {"cp": 2}, SHARED, {}), expected)


@pytest.mark.parametrize("loss", OTHER_LOSSES)
@pytest.mark.parametrize("layout", [{}, {"cp": 2}, {"pp": 2}], ids=["dp2", "cp2", "pp2"])
def test_other_losses_give_what_repeated_prompts_give(pool1, pool2, folder, layout, loss):
    expected = pool1.run(one_pass, folder, {}, {**REPEATED, **loss}, {})[0]
    assert_same_results(pool2.run(one_pass, folder, layout, {**SPLIT, **loss}, {}), expected)


@pytest.mark.parametrize("layout", [{}, {"cp": 2}], ids=["dp2", "cp2"])
def test_bf16_stays_near_the_fp32_gradients(pool2, folder, reference, layout):
    *expected, _ = reference
    for *result, _ in pool2.run(one_pass, folder, layout, SHARED, {"dtype": "bf16"}):
        assert_near_pass(result, expected)
