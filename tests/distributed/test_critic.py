"""A critic's values, loss and gradients do not depend on the layout, nor on prompts being shared.

Promise: on one rank they are those of transformers' reward model with plain autograd, one sample
at a time; any other layout gives them too, with each group's prompt computed once, and ends at the
same weights after three optimizer steps. A critic goes on from a checkpoint bit for bit, and in
another layout with the same weights. Not covered: CUDA, bf16.
"""

import json
from pathlib import Path

import pytest
import torch

from megatron_longrlvr.algorithms.packing import pack
from megatron_longrlvr.checkpoint.manifest import checkpoint_directory
from megatron_longrlvr.checkpoint.run_state import RunState
from megatron_longrlvr.checkpoint.sharded import TraineeWrite
from megatron_longrlvr.checkpoint.store import load_checkpoint, save_checkpoint
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import CheckpointError, ConfigError
from megatron_longrlvr.model.critic import value_regression
from megatron_longrlvr.model.schedule import run_pipeline
from megatron_longrlvr.model.spec import read_critic_spec
from megatron_longrlvr.parallel.groups import close_process_groups
from megatron_longrlvr.stages import ValueBatch
from megatron_longrlvr.trainer.assembly import data_parallel_peers
from tests.support.gradients import FP32_RTOL, assert_same_pass
from tests.support.learners import (
    gather_critic_gradients,
    gather_critic_weights,
    start_critic,
    start_groups,
    start_learner,
    start_policy,
)
from tests.support.sample_groups import joined, random_groups
from tests.support.tiny_models import save_tiny_model, tiny_reward_model

VALUE_ATOL = 1e-5  # values of order 1 in float32, in another order of sums
# As in test_layout_equality: AdamW with eps 1e-3 passes on ten times the error of a gradient.
WEIGHT_ATOL = 1e-5
OPTIMIZER = {"lr": 1e-2, "eps": 1e-3}
CLIP = 0.5  # of values that are off by about 1: some are bounded, some are not

REPEATED = {"shared_prompt": False, "micro_batch_tokens": 200}
SHARED = {"shared_prompt": True, "micro_batch_tokens": 43}  # and the first group is split

TP_SP = {"tp": 2, "sequence_parallel": True}
LAYOUTS_OF_TWO = [
    pytest.param({"tp": 2}, id="tp2"),
    pytest.param(TP_SP, id="tp2-sp"),
    pytest.param({"pp": 2}, id="pp2"),
    pytest.param({"pp": 2, "vpp": 2}, id="pp2-vpp2"),
    pytest.param({"cp": 2}, id="cp2"),
    pytest.param({}, id="dp2"),
]
LAYOUTS_OF_FOUR = [
    pytest.param({**TP_SP, "cp": 2}, id="tp2-sp-cp2"),
    pytest.param({**TP_SP, "pp": 2}, id="tp2-sp-pp2"),
]


def value_batch(critic, algorithm, *, seed):
    """Old values and returns that depend on the token alone, whatever rank holds it."""
    groups = critic.network.groups
    mine = joined(random_groups(seed=seed)[groups.dp_rank :: groups.layout.dp])
    (packed,) = pack(
        mine,
        config=AlgorithmConfig(**algorithm),
        max_response_tokens=16,
        peers=data_parallel_peers(groups),
    )
    rows = packed.micro_batches
    return ValueBatch(
        packed=packed,
        values=[old_values(row.token_ids) * row.is_response for row in rows],
        returns=[returns(row.token_ids) * row.is_response for row in rows],
    )


def old_values(token_ids):
    return torch.sin(token_ids.float())


def returns(token_ids):
    return torch.cos(3 * token_ids.float())


def one_pass(rank, world_size, folder, layout, algorithm):  # noqa: ARG001
    """Loss, gradients, and values of every response token by sample."""
    critic = start_critic(
        folder, start_groups(layout, world_size), optimizer={"distributed": False}
    )
    batch = value_batch(critic, algorithm, seed=7)
    values = by_sample(batch.packed.micro_batches, critic.values(batch.packed.micro_batches))
    results = run_pipeline(
        critic.wrapped,
        critic.network.localize(batch.packed.micro_batches),
        value_regression(batch, clip=CLIP),
        forward_only=False,
    )
    loss = critic._global_sums(results, ("loss",))["loss"]
    gradients = gather_critic_gradients(critic)
    close_process_groups()
    return loss, gradients, values


def by_sample(micro_batches, rows):
    lengths = {
        f"{one.sample.prompt.prompt_id}/{one.sample.sample_index}": len(one.sample.token_ids)
        for one in joined(random_groups(seed=7)).scored
    }
    found = {}
    for micro_batch, row in zip(micro_batches, rows, strict=True):
        assert not row[~micro_batch.is_response].any()
        values = row[micro_batch.is_response].tolist()
        for name in micro_batch.sample_ids:
            found[name], values = values[: lengths[name]], values[lengths[name] :]
    return found


def three_steps(rank, world_size, folder, layout):  # noqa: ARG001
    critic = start_critic(
        folder, start_groups(layout, world_size), optimizer=OPTIMIZER, value_clip=CLIP
    )
    stats = [
        critic.update(value_batch(critic, SHARED, seed=seed)).metrics["grad_norm"]
        for seed in range(3)
    ]
    weights = gather_critic_weights(critic)
    close_process_groups()
    return stats, weights


def transformers_pass(model):
    """The same, one unpacked sample at a time."""
    loss, values = torch.zeros(()), {}
    samples = [one.sample for one in joined(random_groups(seed=7)).scored]
    num_tokens = sum(len(sample.token_ids) for sample in samples)
    for sample in samples:
        ids = torch.tensor([*sample.prompt.token_ids, *sample.token_ids])
        hidden = model.model(input_ids=ids[None]).last_hidden_state[0]
        told = model.score(hidden)[len(sample.prompt.token_ids) - 1 : -1, 0]
        response = ids[len(sample.prompt.token_ids) :]
        old, target = old_values(response), returns(response)
        bounded = old + (told - old).clamp(-CLIP, CLIP)
        squares = torch.maximum((told - target) ** 2, (bounded - target) ** 2)
        loss = loss + squares.sum() / 2 / num_tokens
        values[f"{sample.prompt.prompt_id}/{sample.sample_index}"] = told.tolist()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.item(), gradients, values


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    tiny_reward_model("llama").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "policy"
    save_tiny_model(path, "llama")
    return path


@pytest.fixture(scope="module")
def reference(folder, pool1):
    return pool1.run(one_pass, folder, {}, REPEATED)[0]


def assert_same(results, expected, *, rtol=FP32_RTOL):
    seen = set()
    for *result, values in results:
        assert_same_pass(result, expected[:2], gradient_rtol=rtol)
        for name, told in values.items():
            assert told == pytest.approx(expected[2][name], abs=VALUE_ATOL), name
        seen |= set(values)
    assert seen == set(expected[2]), "some sample was packed nowhere"


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_one_rank_gives_what_a_reward_model_of_transformers_gives(pool1, tmp_path, family):
    model = tiny_reward_model(family)
    model.save_pretrained(tmp_path)
    results = pool1.run(one_pass, tmp_path, {}, REPEATED)
    # Another implementation of attention and norms: twice the room.
    assert_same(results, transformers_pass(model), rtol=2 * FP32_RTOL)


@pytest.mark.parametrize("layout", LAYOUTS_OF_TWO)
def test_two_ranks_with_shared_prompts_give_what_one_gives(pool2, folder, reference, layout):
    assert_same(pool2.run(one_pass, folder, layout, SHARED), reference)


@pytest.mark.parametrize("layout", LAYOUTS_OF_FOUR)
def test_four_ranks_with_shared_prompts_give_what_one_gives(pool4, folder, reference, layout):
    assert_same(pool4.run(one_pass, folder, layout, SHARED), reference)


@pytest.mark.parametrize("layout", [{"ep": 2}, TP_SP], ids=["ep2", "tp2-sp"])
def test_a_critic_with_experts_gives_on_two_ranks_what_it_gives_on_one(
    pool1, pool2, tmp_path, layout
):
    tiny_reward_model("mixtral").save_pretrained(tmp_path, save_original_format=True)
    expected = pool1.run(one_pass, tmp_path, {}, REPEATED)[0]
    assert_same(pool2.run(one_pass, tmp_path, layout, SHARED), expected)


def test_three_steps_end_at_the_same_weights_in_every_layout(pool1, pool2, pool4, folder):
    ((norms, weights),) = pool1.run(three_steps, folder, {})
    others = [(pool2, TP_SP), (pool2, {"pp": 2}), (pool2, {}), (pool4, {**TP_SP, "cp": 2})]
    for pool, layout in others:
        for found_norms, found in pool.run(three_steps, folder, layout):
            assert found_norms == pytest.approx(norms, rel=1e-5)
            for name, weight in weights.items():
                torch.testing.assert_close(
                    found[name], weight, atol=WEIGHT_ATOL, rtol=0, msg=f"{layout} {name}"
                )


def step_by_step(rank, world_size, folder, settings, directory):  # noqa: ARG001
    """Each step's values and metrics, bytes on the device between steps, and a checkpoint."""
    settings = dict(settings)
    policy = start_policy(folder, settings.pop("layout"), world_size)
    critic = start_critic(folder, policy.groups, optimizer=OPTIMIZER, **settings)
    learner = start_learner(policy)
    told, idle_bytes = [], []
    for seed in range(3):
        critic.leave()
        idle_bytes.append(device_bytes(critic))
        critic.arrive()
        batch = value_batch(critic, SHARED, seed=seed)
        values = [row.tolist() for row in critic.values(batch.packed.micro_batches)]
        told.append((values, critic.update(batch).metrics))
    critic.leave()
    state = RunState(step=0, policy_version=0, prompt_cursor=0, critic_version=3)
    save_checkpoint(directory, learner, state, critic=critic, config_fingerprint="")
    idle_bytes.append(device_bytes(critic))
    critic.arrive()
    load_checkpoint(directory, learner, critic=critic)
    told.append(critic.update(value_batch(critic, SHARED, seed=3)).metrics)
    weights = gather_critic_weights(critic)
    close_process_groups()
    return told, weights, idle_bytes


def device_bytes(critic):
    """Of weights, gradients, and what AdamW holds."""
    buffers = [buffer for chunk in critic.wrapped for buffer in chunk.buffers]
    inner = critic.optimizer.chained_optimizers[0].optimizer
    tensors = [tensor for buffer in buffers for tensor in (buffer.param_data, buffer.grad_data)]
    tensors += [parameter for group in inner.param_groups for parameter in group["params"]]
    tensors += [moment for state in inner.state.values() for moment in state.values()]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"layout": {}, "dtype": "bf16"}, id="dp2-bf16"),
        pytest.param({"layout": TP_SP}, id="tp2-sp"),
    ],
)
def test_a_critic_that_leaves_the_device_learns_the_same(pool2, policy_folder, tmp_path, settings):
    stayed, left = (
        pool2.run(
            step_by_step,
            policy_folder,
            {**settings, "is_offloaded": is_offloaded},
            checkpoint_directory(tmp_path / str(is_offloaded), 0),
        )
        for is_offloaded in (False, True)
    )
    for (told, weights, idle_bytes), expected in zip(left, stayed, strict=True):
        assert told == expected[0]
        assert_equal_weights(weights, expected[1])
        assert min(expected[2]) > 0
        assert idle_bytes == [0] * 4


@pytest.mark.parametrize("family", ["llama", "qwen2-tied"])
def test_a_policys_folder_gives_the_body_and_a_head_of_zeros(pool2, tmp_path, family):
    name, _, tie = family.partition("-")
    model = save_tiny_model(tmp_path, name, tie=bool(tie))
    for weights in pool2.run(loaded_weights, tmp_path, {"pp": 2}):
        assert not weights.pop("score.weight").any()
        expected = {key: value for key, value in model.state_dict().items() if "lm_head" not in key}
        assert weights.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(weights[key], value), key


def loaded_weights(rank, world_size, folder, layout):  # noqa: ARG001
    critic = start_critic(folder, start_groups(layout, world_size))
    weights = gather_critic_weights(critic)
    close_process_groups()
    return weights


def test_a_converted_policy_gives_the_body_and_a_head_of_zeros(pool2, tmp_path):
    model = save_tiny_model(tmp_path / "hf", "llama")
    (tmp_path / "converted" / "learner").mkdir(parents=True)
    pool2.run(save_policy_weights, tmp_path / "hf", tmp_path / "converted")
    (tmp_path / "converted" / "config.json").write_text((tmp_path / "hf/config.json").read_text())
    for weights in pool2.run(loaded_weights, tmp_path / "converted", {"pp": 2}):
        assert not weights.pop("score.weight").any()
        for key, value in weights.items():
            assert torch.equal(value, model.state_dict()[key]), key


def save_policy_weights(rank, world_size, folder, directory):  # noqa: ARG001
    learner = start_learner(start_policy(folder, {}, world_size))
    write = TraineeWrite(directory / "learner", learner, hashes=directory / "hashes.json")
    write.wait()
    write.finish()
    close_process_groups()


def test_a_classifier_of_several_labels_is_refused(pool1, tmp_path):
    tiny_reward_model("llama", num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="id2label has 3 labels; a critic's head has one"):
        read_critic_spec(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (message,) = pool1.run(refused_start, tmp_path)
    assert "score.weight has shape (3, 32)" in message


def refused_start(rank, world_size, folder):  # noqa: ARG001
    try:
        start_critic(folder, start_groups({}, world_size))
    except CheckpointError as error:
        return str(error)
    return "not refused"


def save_and_go_on(rank, world_size, folder, layout, directory):  # noqa: ARG001
    learner, critic = start_both(folder, layout, world_size)
    for seed in range(2):
        critic.update(value_batch(critic, SHARED, seed=seed))
    state = RunState(step=2, policy_version=0, prompt_cursor=0, critic_version=2)
    save_checkpoint(directory, learner, state, critic=critic, config_fingerprint="")
    return go_on(critic)


def resume(rank, world_size, folder, layout, directory):  # noqa: ARG001
    learner, critic = start_both(folder, layout, world_size)
    assert load_checkpoint(directory, learner, critic=critic).critic_version == 2
    return go_on(critic)


def start_both(folder, layout, world_size):
    policy = start_policy(folder, layout, world_size)
    # A rate that falls from step to step, and AdamW's step in the state.
    schedule = {"lr": 1e-2, "eps": 1e-3, "schedule": "cosine"}
    return start_learner(policy), start_critic(folder, policy.groups, optimizer=schedule)


def go_on(critic):
    """Weights as they are, and what the next step makes of them."""
    kept = gather_critic_weights(critic)
    metrics = dict(critic.update(value_batch(critic, SHARED, seed=2)).metrics)
    weights = gather_critic_weights(critic)
    version = critic.version
    close_process_groups()
    return kept, metrics, weights, version


def assert_equal_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("layout", [TP_SP, {"pp": 2}], ids=["tp2-sp", "pp2"])
def test_a_critic_goes_on_from_a_checkpoint_bit_for_bit(pool2, tmp_path, layout):
    start, other = tmp_path / "start", tmp_path / "other"
    save_tiny_model(start, "qwen2", tie=True)
    save_tiny_model(other, "qwen2", tie=True, seed=9)
    directory = checkpoint_directory(tmp_path, 2)
    went_on = pool2.run(save_and_go_on, start, layout, directory)[0]
    carried_on = pool2.run(resume, other, layout, directory)[0]
    assert_equal_weights(carried_on[0], went_on[0])
    assert carried_on[1] == went_on[1]
    assert_equal_weights(carried_on[2], went_on[2])
    assert carried_on[3] == went_on[3] == 3


def test_another_layout_takes_over_a_critic(pool2, pool4, policy_folder, tmp_path):
    directory = checkpoint_directory(tmp_path, 2)
    kept, metrics, weights, _ = pool2.run(save_and_go_on, policy_folder, {"pp": 2}, directory)[0]
    loaded, found_metrics, found, _ = pool4.run(
        resume, policy_folder, {**TP_SP, "cp": 2}, directory
    )[0]
    assert_equal_weights(loaded, kept)
    assert found_metrics == pytest.approx(metrics, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, atol=WEIGHT_ATOL, rtol=0, msg=name)


def test_a_checkpoint_without_a_critic_is_refused_by_a_run_with_one(pool1, policy_folder, tmp_path):
    directory = checkpoint_directory(tmp_path, 0)
    (message,) = pool1.run(refused_checkpoint, policy_folder, directory)
    assert message == f"{directory} holds no critic, which this run needs"


def refused_checkpoint(rank, world_size, folder, directory):  # noqa: ARG001
    learner, critic = start_both(folder, {}, world_size)
    state = RunState(step=0, policy_version=0, prompt_cursor=0)
    save_checkpoint(directory, learner, state, config_fingerprint="")
    try:
        load_checkpoint(directory, learner, critic=critic)
    except CheckpointError as error:
        return str(error)
    return "not refused"
