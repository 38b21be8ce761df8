"""A run that is saved and carried on by fresh processes does what it would have done without that.

In the layout that saved it: the same losses and weights bit for bit. In another layout: first the
weights that were saved, bit for bit, and from there the same up to the order of fp32 sums. Whoever
loads starts from other weights, so that everything that matches came out of the checkpoint.

Not covered: CUDA, several machines. A full disk is in test_checkpoint_space.py.
"""

import json
import pickle
import shutil
from importlib import metadata

import numpy
import pytest
import torch

from megatron_longrlvr.checkpoint.manifest import (
    checkpoint_directory,
    latest,
    list_checkpoints,
    partial_directory,
)
from megatron_longrlvr.checkpoint.run_state import RunState
from megatron_longrlvr.config.policy import ModelConfig, OptimizerConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from tests.support.micro_batches import random_batch
from tests.support.tiny_models import save_tiny_model

# Warm-up and decay both move the rate at every step, and AdamW's bias correction is still far
# from 1 when the run stops: a schedule or a step count that starts anew moves weights by 1e-3.
OPTIMIZER = {"lr": 1e-2, "min_lr": 1e-3, "schedule": "cosine", "warmup_steps": 1}
NUM_STEPS = 10
STEPS_BEFORE, STEPS_AFTER = 2, 2

# Metrics of order 1 (the on-policy loss says little, entropy and gradient norm much) and weights
# near 0.1 in fp32 (eps 1.2e-7), summed in another order by another layout; AdamW passes relative
# errors of gradients on to steps of 1e-2.
RESHARDED_METRIC_RTOL = 2e-6
RESHARDED_METRIC_ATOL = 1e-7
RESHARDED_WEIGHT_ATOL = 5e-6

SMALL = {
    "dp2": {},
    "tp2-sp": {"tp": 2, "sequence_parallel": True},
    "pp2": {"pp": 2},
    "pp2-vpp2": {"pp": 2, "vpp": 2},
    "cp2": {"cp": 2},
    "ep2": {"ep": 2},
}
DENSE = [name for name in SMALL if name != "ep2"]


def layout_of(name, world_size=2):
    return ParallelLayout(world_size=world_size, **SMALL[name])


def build_learner(layout, folder, *, dtype="fp32", seed=1, **optimizer):
    from megatron_longrlvr.model.learner import Learner, LearnerSettings
    from megatron_longrlvr.model.policy import load_policy

    groups = start_process_groups(layout, seed=seed)
    model = ModelConfig(path=str(folder), dtype=dtype)
    policy = load_policy(folder, read_model_spec(folder), groups, model)
    settings = LearnerSettings(
        optimizer=OptimizerConfig(**{**OPTIMIZER, **optimizer}),
        num_optimizer_steps=NUM_STEPS,
        temperature=1.0,
    )
    return Learner(policy, settings)


def train(learner, first_step, num_steps):
    """Metrics of each step."""
    groups, config = learner.policy.groups, AlgorithmConfig(micro_batch_tokens=64)
    history = []
    for step in range(first_step, first_step + num_steps):
        packed = random_batch(seed=step, share=groups.dp_rank, num_shares=groups.layout.dp)
        history.append(dict(learner.update(learner.add_logprobs(packed, config), config).metrics))
    return history


def full_weights(learner):
    from megatron_longrlvr.model.hf_weights import export_hf_tensors

    policy = learner.policy
    groups = policy.groups
    tensors = export_hf_tensors(
        policy.chunks,
        policy.spec,
        tp_group=groups.tp,
        pp_group=groups.pp,
        ep_group=groups.ep,
    )
    return {name: tensor.float().numpy().copy() for name, tensor in tensors}


def inner_optimizers(learner):
    return [chained.optimizer for chained in learner.optimizer.chained_optimizers]


def adam_steps(learner):
    """Values of AdamW's per-parameter step, which its bias correction reads."""
    return {
        float(state["step"])
        for optimizer in inner_optimizers(learner)
        for state in optimizer.state.values()
    }


def position(learner):
    return RunState(
        step=learner.version,
        policy_version=learner.version,
        prompt_cursor=8 * learner.version,
        extra={"rounds": 3, "kl": 0.25, "phase": "warm"},
    )


def save_and_go_on(rank, _world_size, layout, folder, run_dir, options, steps_before):
    from megatron_longrlvr.checkpoint.store import save_checkpoint

    learner = build_learner(layout, folder, **options)
    train(learner, 0, steps_before)
    directory = checkpoint_directory(run_dir, steps_before)
    save_checkpoint(directory, learner, position(learner), config_fingerprint="abc")
    saved = full_weights(learner)
    history = train(learner, steps_before, STEPS_AFTER)
    weights = full_weights(learner)
    return (history, weights, learner.version, saved) if rank == 0 else None


def resume(rank, _world_size, layout, folder, run_dir, options, steps_before):
    from megatron_longrlvr.checkpoint.store import load_checkpoint

    learner = build_learner(layout, folder, seed=99, **options)
    state = load_checkpoint(checkpoint_directory(run_dir, steps_before), learner)
    assert adam_steps(learner) == ({steps_before} if steps_before else set())
    assert state == RunState(
        step=steps_before,
        policy_version=steps_before,
        prompt_cursor=8 * steps_before,
        extra={"rounds": 3, "kl": 0.25, "phase": "warm"},
    )
    assert learner.version == steps_before
    loaded = full_weights(learner)
    history = train(learner, steps_before, STEPS_AFTER)
    assert adam_steps(learner) == {steps_before + STEPS_AFTER}
    weights = full_weights(learner)
    return (history, weights, learner.version, loaded) if rank == 0 else None


def saved_and_resumed(
    pool,
    tmp_path,
    saving,
    loading,
    *,
    resuming_pool=None,
    tie=False,
    family=None,
    options,
    steps_before=STEPS_BEFORE,
):
    """(metrics, weights) of a run that went on and of one that was carried on.

    In whatever layout the weights are loaded, they are those that were saved.
    """
    folder, other = tmp_path / "model", tmp_path / "other"
    # Biases in one, norms of queries and keys in the other.
    family = family or ("qwen2" if tie else "qwen3")
    save_tiny_model(folder, family, tie=tie)
    save_tiny_model(other, family, tie=tie, seed=7)
    common = (tmp_path / "run", options, steps_before)
    *went_on, version, saved = pool.run(save_and_go_on, saving, folder, *common)[0]
    *carried_on, resumed_version, loaded = (resuming_pool or pool).run(
        resume, loading, other, *common
    )[0]
    assert resumed_version == version == steps_before + STEPS_AFTER
    assert_same_weights(loaded, saved)
    return went_on, carried_on


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        numpy.testing.assert_array_equal(found[key], weight, err_msg=key)


def assert_identical(went_on, carried_on):
    assert carried_on[0] == went_on[0]
    assert_same_weights(carried_on[1], went_on[1])


def assert_close(went_on, carried_on):
    for expected, found in zip(went_on[0], carried_on[0], strict=True):
        assert found["lr"] == expected["lr"]
        assert found == pytest.approx(
            expected, rel=RESHARDED_METRIC_RTOL, abs=RESHARDED_METRIC_ATOL
        )
    for key, expected in went_on[1].items():
        numpy.testing.assert_allclose(
            carried_on[1][key], expected, atol=RESHARDED_WEIGHT_ATOL, rtol=0, err_msg=key
        )


@pytest.mark.parametrize("distributed", [True, False], ids=["sharded-optimizer", "plain-optimizer"])
@pytest.mark.parametrize("name", DENSE)
def test_same_layout_goes_on_bit_for_bit(pool2, tmp_path, name, distributed):
    layout = layout_of(name)
    tie = name.startswith("pp")  # tied pipelines hold the embedding twice
    results = saved_and_resumed(
        pool2, tmp_path, layout, layout, tie=tie, options={"distributed": distributed}
    )
    assert_identical(*results)


@pytest.mark.parametrize("distributed", [True, False], ids=["sharded-optimizer", "plain-optimizer"])
def test_bfloat16_weights_keep_their_fp32_main_copy(pool2, tmp_path, distributed):
    layout = layout_of("tp2-sp")
    options = {"dtype": "bf16", "distributed": distributed}
    assert_identical(*saved_and_resumed(pool2, tmp_path, layout, layout, tie=True, options=options))


@pytest.mark.parametrize("distributed", [True, False], ids=["sharded-optimizer", "plain-optimizer"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_run_without_an_optimizer_step_so_far_can_be_saved(pool2, tmp_path, dtype, distributed):
    layout = layout_of("pp2")
    options = {"dtype": dtype, "distributed": distributed}
    results = saved_and_resumed(
        pool2, tmp_path, layout, layout, tie=True, options=options, steps_before=0
    )
    assert_identical(*results)


RESHARDINGS = [
    pytest.param("tp2-sp", "pp2", id="tp2-to-pp2"),
    pytest.param("pp2", "dp2", id="pp2-to-dp2"),
    pytest.param("dp2", "tp2-sp", id="dp2-to-tp2"),
    pytest.param("cp2", "tp2-sp", id="cp2-to-tp2"),
    pytest.param("pp2-vpp2", "tp2-sp", id="vpp2-to-tp2"),
    pytest.param("cp2", "pp2-vpp2", id="cp2-to-vpp2"),
]


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("saving", "loading"), RESHARDINGS)
def test_another_layout_goes_on_with_the_same_numbers(pool2, tmp_path, saving, loading, tie):
    saving, loading = layout_of(saving), layout_of(loading)
    assert_close(*saved_and_resumed(pool2, tmp_path, saving, loading, tie=tie, options={}))


@pytest.mark.parametrize(("saving", "loading"), RESHARDINGS[:3])
def test_another_layout_takes_over_a_plain_optimizer(pool2, tmp_path, saving, loading):
    saving, loading = layout_of(saving), layout_of(loading)
    options = {"distributed": False}
    assert_close(*saved_and_resumed(pool2, tmp_path, saving, loading, tie=True, options=options))


def test_four_ranks_go_on_as_two(pool2, pool4, tmp_path):
    saving = ParallelLayout(world_size=4, tp=2, pp=2, sequence_parallel=True)
    results = saved_and_resumed(
        pool4, tmp_path, saving, layout_of("dp2"), resuming_pool=pool2, tie=True, options={}
    )
    assert_close(*results)


def test_two_ranks_go_on_as_four(pool2, pool4, tmp_path):
    loading = ParallelLayout(world_size=4, tp=2, cp=2, sequence_parallel=True)
    results = saved_and_resumed(
        pool2, tmp_path, layout_of("pp2"), loading, resuming_pool=pool4, tie=False, options={}
    )
    assert_close(*results)


@pytest.mark.parametrize("distributed", [True, False], ids=["sharded-optimizer", "plain-optimizer"])
def test_shared_out_experts_go_on_bit_for_bit(pool2, tmp_path, distributed):
    layout = layout_of("ep2")
    options = {"distributed": distributed}
    assert_identical(
        *saved_and_resumed(pool2, tmp_path, layout, layout, family="mixtral", options=options)
    )


@pytest.mark.parametrize(
    ("saving", "loading", "distributed"),
    [
        pytest.param("dp2", "ep2", True, id="ep1-to-ep2"),
        pytest.param("ep2", "dp2", True, id="ep2-to-ep1"),
        pytest.param("tp2-sp", "ep2", True, id="tp2-to-ep2"),
        pytest.param("ep2", "tp2-sp", True, id="ep2-to-tp2"),
        pytest.param("dp2", "ep2", False, id="ep1-to-ep2-plain-optimizer"),
        pytest.param("ep2", "dp2", False, id="ep2-to-ep1-plain-optimizer"),
    ],
)
def test_experts_shared_out_otherwise_go_on_with_the_same_numbers(
    pool2, tmp_path, saving, loading, distributed
):
    # One optimizer at EP1 and two at EP2; qwen3_moe has a layer without experts too.
    assert_close(
        *saved_and_resumed(
            pool2,
            tmp_path,
            layout_of(saving),
            layout_of(loading),
            family="qwen3_moe",
            options={"distributed": distributed},
        )
    )


def save_only(_rank, _world_size, layout, folder, run_dir, options):
    from megatron_longrlvr.checkpoint.store import save_checkpoint

    learner = build_learner(layout, folder, **options)
    train(learner, 0, STEPS_BEFORE)
    directory = checkpoint_directory(run_dir, STEPS_BEFORE)
    save_checkpoint(directory, learner, position(learner), config_fingerprint="abc")


@pytest.fixture
def saved(pool2, tmp_path):
    """A model folder and a run with one checkpoint, saved by two data-parallel ranks."""
    folder, run_dir = tmp_path / "model", tmp_path / "run"
    save_tiny_model(folder, "qwen3")
    pool2.run(save_only, layout_of("dp2"), folder, run_dir, {"weight_decay": 0.5})
    return folder, run_dir


def test_manifest_describes_the_save(saved):
    _, run_dir = saved
    (checkpoint,) = list_checkpoints(run_dir)
    manifest = checkpoint.manifest
    assert (manifest.step, manifest.policy_version) == (STEPS_BEFORE, STEPS_BEFORE)
    assert ParallelLayout(**manifest.layout) == layout_of("dp2")
    assert (manifest.dtype, manifest.is_optimizer_distributed) == ("fp32", True)
    assert manifest.config_fingerprint == "abc"
    assert manifest.library_versions["torch"] == metadata.version("torch")
    names = set(manifest.bytes_by_file)
    assert {"state.json", "random/rank_00000.safetensors", "random/rank_00001.safetensors"} <= names
    assert {"learner/.metadata", "learner/__0_0.distcp"} <= names


def test_nothing_but_the_index_of_tensors_needs_pickle(saved):
    _, run_dir = saved
    learner = latest(run_dir).directory / "learner"
    with (learner / ".metadata").open("rb") as file:
        stored = pickle.load(file).state_dict_metadata
    if (learner / "common.pt").exists():  # megatron-core before 0.19
        torch.load(learner / "common.pt", weights_only=True)
    else:
        # The same among the tensors, which megatron-core reads back with weights_only=True.
        (common,) = [name for name in stored if name.startswith("common_state/")]
        stored.pop(common)
    assert {type(value).__name__ for value in stored.values()} == {"TensorStorageMetadata"}


def load_with_other_settings(_rank, _world_size, folder, run_dir):
    from megatron_longrlvr.checkpoint.store import load_checkpoint

    learner = build_learner(
        layout_of("dp2"), folder, lr=3e-3, weight_decay=0.25, beta1=0.5, beta2=0.75, eps=1e-5
    )
    keys = ("betas", "eps", "weight_decay", "lr")
    before = [{key: group[key] for key in keys} for group in learner.optimizer.param_groups]
    load_checkpoint(latest(run_dir).directory, learner)
    after = [{key: group[key] for key in keys} for group in learner.optimizer.param_groups]
    return before, after


def test_settings_of_the_optimizer_come_from_the_recipe_and_not_from_the_checkpoint(pool2, saved):
    for before, after in pool2.run(load_with_other_settings, *saved):
        assert after == before
        assert after[0]["betas"] == (0.5, 0.75)


def padding_after_loading(_rank, _world_size, folder, run_dir):
    from megatron_longrlvr.checkpoint.store import load_checkpoint

    learner = build_learner(layout_of("tp2-sp"), folder)
    load_checkpoint(latest(run_dir).directory, learner)
    embedding = learner.policy.chunks[0].embedding.word_embeddings.weight
    vocab_size, start = learner.policy.spec.vocab_size, learner.policy.groups.tp_rank * 50
    return embedding[max(vocab_size - start, 0) :].tolist(), len(embedding)


def test_rows_that_only_the_loading_layout_pads_are_zero(pool2, saved):
    # 99 words: one data-parallel rank holds 99 rows, two tensor-parallel ranks 50 each.
    first, last = pool2.run(padding_after_loading, *saved)
    assert first == ([], 50)
    assert last == ([[0.0] * 32], 50)


def refused(_rank, _world_size, layout, folder, run_dir, options):
    from megatron_longrlvr.checkpoint.store import load_checkpoint

    learner = build_learner(layout, folder, **options)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(checkpoint_directory(run_dir, STEPS_BEFORE), learner)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"distributed": False}, "optimizer.distributed=True", id="optimizer"),
        pytest.param({"dtype": "bf16"}, "model.dtype=fp32", id="dtype"),
    ],
)
def test_other_kind_of_state_is_refused_with_the_setting(pool2, saved, options, message):
    folder, run_dir = saved
    for text in pool2.run(refused, layout_of("dp2"), folder, run_dir, options):
        assert message in text
        assert str(latest(run_dir).directory) in text


@pytest.mark.parametrize(
    ("family", "num_layers", "message"),
    [
        pytest.param("qwen2", 4, "linear_qkv.bias", id="other-family"),
        pytest.param("qwen3", 2, "decoder.layers", id="fewer-layers"),
        pytest.param("qwen3", 6, "decoder.layers", id="more-layers"),
    ],
)
def test_other_model_is_refused_with_the_tensor(
    pool2, saved, tmp_path, family, num_layers, message
):
    other = tmp_path / "other"
    save_tiny_model(other, family, num_layers=num_layers)
    for text in pool2.run(refused, layout_of("dp2"), other, saved[1], {}):
        assert message in text


def test_damaged_file_is_named_on_every_rank(pool2, saved):
    folder, run_dir = saved
    path = latest(run_dir).directory / "learner" / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-1])
    for text in pool2.run(refused, layout_of("dp2"), folder, run_dir, {}):
        assert str(path) in text


def save_while_training(_rank, _world_size, folder, run_dir):
    """Weights when a save began, and those that it holds although training went on meanwhile."""
    from megatron_longrlvr.checkpoint.store import PendingCheckpoint, find_intact, load_checkpoint

    learner = build_learner(layout_of("dp2"), folder)
    train(learner, 0, 2)
    before = full_weights(learner)
    directory = checkpoint_directory(run_dir, learner.version)
    pending = PendingCheckpoint(directory, learner, position(learner), config_fingerprint="abc")
    train(learner, 2, 2)
    changed = full_weights(learner)
    seen_early = directory.exists()
    pending.finish()
    found = find_intact(run_dir, learner.policy.groups)
    load_checkpoint(found.directory, learner)
    return before, changed, full_weights(learner), seen_early


def test_checkpoint_holds_the_moment_it_was_begun_though_training_goes_on(pool2, saved, tmp_path):
    folder, _ = saved
    for before, changed, held, seen_early in pool2.run(save_while_training, folder, tmp_path):
        assert not seen_early
        assert any((before[name] != changed[name]).any() for name in before)
        for name in before:
            assert (held[name] == before[name]).all(), name


def step_of_intact(_rank, _world_size, folder, run_dir):
    from megatron_longrlvr.checkpoint.store import find_intact

    found = find_intact(run_dir, build_learner(layout_of("dp2"), folder).policy.groups)
    return None if found is None else found.manifest.step


def test_checkpoint_with_changed_contents_is_skipped_for_the_one_before(pool2, saved):
    folder, run_dir = saved
    first = latest(run_dir)
    newer = checkpoint_directory(run_dir, STEPS_BEFORE + 1)
    shutil.copytree(first.directory, newer)
    manifest = newer / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "step": STEPS_BEFORE + 1}))
    assert pool2.run(step_of_intact, folder, run_dir) == [STEPS_BEFORE + 1] * 2
    path = newer / "learner" / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert latest(run_dir).manifest.step == STEPS_BEFORE + 1, "sizes do not tell"
    assert pool2.run(step_of_intact, folder, run_dir) == [STEPS_BEFORE] * 2


def test_save_replaces_what_is_left_of_the_same_step(pool2, saved):
    folder, run_dir = saved
    directory = checkpoint_directory(run_dir, STEPS_BEFORE)
    (directory / "manifest.json").unlink()
    shutil.copytree(directory, partial_directory(directory))
    (partial_directory(directory) / "learner" / "__7_0.distcp").write_bytes(b"of a larger job")
    assert latest(run_dir) is None
    pool2.run(save_only, layout_of("tp2-sp"), folder, run_dir, {})
    manifest = latest(run_dir).manifest
    assert manifest.layout["tp"] == 2
    assert "learner/__7_0.distcp" not in manifest.bytes_by_file
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def draw_after_saving(_rank, _world_size, layout, folder, run_dir):
    from megatron_longrlvr.checkpoint.store import save_checkpoint

    learner = build_learner(layout, folder, seed=5)
    torch.rand(3)
    save_checkpoint(
        checkpoint_directory(run_dir, 0), learner, position(learner), config_fingerprint="abc"
    )
    return torch.rand(3).tolist()


def draw_after_loading(_rank, _world_size, layout, folder, run_dir):
    from megatron_longrlvr.checkpoint.store import load_checkpoint

    learner = build_learner(layout, folder, seed=99)
    seeded = torch.get_rng_state()
    load_checkpoint(latest(run_dir).directory, learner)
    is_as_seeded = torch.equal(torch.get_rng_state(), seeded)
    return torch.rand(3).tolist(), is_as_seeded


def test_random_numbers_go_on_in_the_same_layout_and_start_anew_in_another(pool2, tmp_path):
    folder, run_dir = tmp_path / "model", tmp_path / "run"
    save_tiny_model(folder, "qwen3")
    first, last = pool2.run(draw_after_saving, layout_of("pp2"), folder, run_dir)
    assert first != last  # pipeline stages draw different numbers: each rank needs its own
    same = pool2.run(draw_after_loading, layout_of("pp2"), folder, run_dir)
    assert same == [(first, False), (last, False)]
    other = pool2.run(draw_after_loading, layout_of("dp2"), folder, run_dir)
    assert [is_as_seeded for _, is_as_seeded in other] == [True, True]
