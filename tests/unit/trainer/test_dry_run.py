"""What a run's ranks would hold is built and checked without them, up to 70B on 512 ranks.

The modules are megatron-core's. That a wrong shard is found is seen where a model is read with
other sizes than it is checked against.
"""

import json
from dataclasses import replace

import pytest

from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.spec import to_hf_config
from megatron_longrlvr.planner.workload import read_workload
from megatron_longrlvr.trainer import dry_run as module
from megatron_longrlvr.trainer.dry_run import dry_run
from tests.support.saved_bytes import tiny_spec
from tests.unit.config.recipe_content import train_config


def small_run(tmp_path, spec, **changes):
    (tmp_path / "config.json").write_text(json.dumps(to_hf_config(spec)))
    return train_config(
        **{"model.path": str(tmp_path), "model.dtype": "bf16", "rollout.prompts_per_step": 16},
        **changes,
    )


def test_70b_on_512_ranks(capsys):
    config = load_config("llama31_70b", ["layout.pp=8", "layout.vpp=1"], TrainConfig)
    found = dry_run(config, world_size=512)
    assert found.num_model_parameters == 70_553_706_496
    # tp=8: norms whole, everything else an eighth; the embedding first, the output layer last.
    layer = (8192 * (8192 + 2 * 1024) + 8192 * 8192 + 3 * 8192 * 28672) // 8 + 2 * 8192
    edge = 128256 * 8192 // 8
    expected = {0: 10 * layer + edge, 7: 10 * layer + edge + 8192}
    assert {one.stage: one.num_parameters for one in found.ranks} == {
        stage: expected.get(stage, 10 * layer) for stage in range(8)
    }
    assert found.batch.packed_tokens == 65_536 + 8 * 4096
    assert found.batch.local_tokens == found.batch.packed_tokens // 4
    assert found.refit_bytes == 2 * found.num_model_parameters
    assert "shards, buffers, batch and refit are right" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"layout.pp": 2, "layout.vpp": 2}, id="interleaved"),
        pytest.param({"layout.tp": 2, "layout.ep": 2, "layout.cp": 2}, id="tp2-cp2-ep2"),
    ],
)
def test_experts_on_many_ranks(tmp_path, changes):
    spec = tiny_spec("experts")
    found = dry_run(small_run(tmp_path, spec, **changes), world_size=16)
    stages = {one.stage for one in found.ranks}
    assert stages == set(range(changes.get("layout.pp", 1)))
    # 4 layers of 4 experts with 3 matrices of 80 x 64, shared out over tp and ep.
    share = changes.get("layout.tp", 1) * changes.get("layout.ep", 1)
    experts = 4 * 4 * 3 * 80 * 64 // share // len(stages)
    assert all(one.num_parameters > experts for one in found.ranks)


def test_128_experts_of_48_layers_on_128_ranks():
    config = load_config("qwen3_30b_a3b", ["layout.ep=32"], TrainConfig)
    found = dry_run(config, world_size=128)
    assert found.num_model_parameters == 30_532_122_624
    # tp=4 cuts attention, tp=4 and ep=32 cut the experts; norms and the router are whole.
    attention = 2048 * (4096 + 2 * 512) + 4096 * 2048
    experts = 128 * 3 * 2048 * 768
    layer = attention // 4 + 2 * 2048 + 2 * 128 + 128 * 2048 + experts // 128
    expected = 48 * layer + 2 * 151936 * 2048 // 4 + 2048
    assert {one.num_parameters for one in found.ranks} == {expected}


def test_tied_embedding_is_counted_once(tmp_path):
    spec = tiny_spec("llama", tie_word_embeddings=True)
    found = dry_run(small_run(tmp_path, spec, **{"layout.pp": 2}), world_size=2)
    held = sum({one.stage: one.num_parameters for one in found.ranks}.values())
    # The last stage holds a copy of it.
    assert held == found.num_model_parameters + spec.vocab_size * spec.hidden_size


def test_a_critic_is_built_beside_the_policy(tmp_path, capsys):
    spec = tiny_spec("llama", tie_word_embeddings=True)
    critic = {
        "algorithm.advantage": "gae",
        "algorithm.drop_uninformative_groups": False,
        "critic": {"optimizer": {"lr": 1e-3}},
        "layout.pp": 2,
    }
    found = dry_run(small_run(tmp_path, spec, **critic), world_size=2)
    held = {one.stage: one.num_parameters for one in found.critic_ranks}
    # Its embedding is held once, and a row of the hidden size stands for the output layer.
    assert sum(held.values()) == found.num_model_parameters + spec.hidden_size
    assert "1 (critic)" in capsys.readouterr().out


def test_parameters_of_another_shape_are_found(tmp_path):
    spec = tiny_spec("llama")
    config = small_run(tmp_path, spec)
    workload = read_workload(config, replace(spec, intermediate_size=96), world_size=1)
    built = module.build_rank(config, workload, 0)
    with pytest.raises(AssertionError, match="the planner says"):
        module.check_planned(
            built, read_workload(config, replace(spec, intermediate_size=160), world_size=1)
        )


def test_layout_that_does_not_divide_names_its_key():
    config = load_config("llama31_70b", ["layout.pp=3"], TrainConfig)
    with pytest.raises(ConfigError, match=r"layout\.pp=3"):
        dry_run(config, world_size=96)
