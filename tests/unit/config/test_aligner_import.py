"""A configuration of NeMo-Aligner's PPO actor becomes a recipe; nothing of it is lost unsaid.

With the critic's it becomes a recipe with a critic. The two here have the keys of NeMo-Aligner
0.7.0's own, of those that mean nothing to us a few.
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import yaml

from megatron_longrlvr.config.aligner_import import (
    NewRecipe,
    import_aligner_config,
    read_aligner_config,
)
from megatron_longrlvr.config.aligner_keys import CRITIC_RULES
from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError

NEW = NewRecipe(model_path="models/llama", train_files=["train.jsonl"], eval_files=["eval.jsonl"])
ACTOR = {
    "defaults": [{"optional tp_overlap@model.ub_tp_comm_overlap_cfg": None}],
    "trainer": {
        "num_nodes": 8,
        "precision": "bf16",
        "ppo": {
            "max_steps": 500,
            "val_check_interval": 10,
            "save_interval": "${.val_check_interval}",
            "gradient_clip_val": 0.5,
            "initial_policy_kl_penalty": 0.01,
            "use_absolute_kl": False,
            "gae_lambda": 0.95,
            "critic_warmup_steps": 20,
            "trt_llm": {
                "enable": False,
                "max_input_len": "${subtract:${model.encoder_seq_length}, 1}",
            },
            "normalize_advantages": True,
            "max_epochs": 1,
        },
        "max_epochs": "${.ppo.max_epochs}",
    },
    "remote_critic_rm": {"critic": {"name": {"train": "critic_train"}, "port": 5556}},
    "exp_manager": {
        "explicit_log_dir": "/results",
        "name": "megatron_gpt_ppo_actor",
        "checkpoint_callback_params": {
            # Of a checkpoint's own configuration, and not in this file.
            "model_parallel_size": "${multiply:${model.context_parallel_size},2}"
        },
    },
    "pretrained_checkpoint": {"restore_from_path": None},
    "model": {
        "ppo": {
            "num_rollout_samples": 512,
            "num_val_samples": "${.num_rollout_samples}",
            "entropy_bonus": 0.001,
            "ratio_eps": 0.2,
            "sampling_params": {
                "use_greedy": False,
                "temperature": 0.9,
                "top_k": 0,
                "top_p": 1.0,
                "repetition_penalty": 1.0,
                "add_BOS": False,
                "end_strings": ["<|endoftext|>"],
            },
            "length_params": {
                "max_length": "${int_div:${model.encoder_seq_length}, 4}",
                "min_length": 1,
            },
            "trt_llm": "${trainer.ppo.trt_llm}",
        },
        "peft": {"peft_scheme": "none", "lora_tuning": {"adapter_dim": 32}},
        "mcore_gpt": True,
        "micro_batch_size": 2,
        "global_batch_size": 128,
        "encoder_seq_length": 4096,
        "tensor_model_parallel_size": 4,
        "pipeline_model_parallel_size": 2,
        "sequence_parallel": True,
        "seed": 1234,
        "optim": {
            "name": "distributed_fused_adam",
            "bucket_cap_mb": 200,
            "lr": 9e-7,
            "weight_decay": 0.1,
            "betas": [0.9, 0.98],
            "sched": {
                "name": "CosineAnnealing",
                "warmup_steps": 10,
                "constant_steps": 1000,
                "min_lr": 9e-8,
            },
        },
        "data": {"data_impl": "jsonl"},
    },
}


CRITIC = {
    "trainer": {
        "num_nodes": 1,
        "precision": 32,
        "ppo": {"port": 5556, "max_steps": 10000, "gradient_clip_val": 0.75},
        "max_steps": "${.ppo.max_steps}",
    },
    "exp_manager": {"explicit_log_dir": "/critic", "name": "megatron_gpt_critic"},
    "pretrained_checkpoint": {"restore_from_path": None},
    "model": {
        "loss_clip_val": 0.2,
        "offload_adam_states": True,
        "output_sequence": True,
        "reward_standardization": {"enable": False, "mean": None},
        "forward_micro_batch_size": "${.micro_batch_size}",
        "use_avg_pool": False,
        "force_head_dtype": "float32",
        "reward_model_type": "binary_ranking",
        "regression": {"num_attributes": 1, "merge_attributes": True},
        "micro_batch_size": 1,
        "global_batch_size": 128,
        "tensor_model_parallel_size": 4,
        "encoder_seq_length": 4096,
        "seed": 99,
        "optim": {
            **ACTOR["model"]["optim"],
            "lr": 9e-6,
            "betas": [0.8, 0.9],
            "sched": {"name": "WarmupPolicy", "warmup_steps": 5},
        },
    },
}


@pytest.fixture
def translate(tmp_path):
    """``critic_overrides`` are of the critic's file; None leaves that file away."""

    def run(*overrides, critic_overrides=None, new=NEW):
        actor, critic = tmp_path / "gpt_ppo_actor.yaml", None
        actor.write_text(yaml.safe_dump(deepcopy(ACTOR), sort_keys=False))
        if critic_overrides is not None:
            path = tmp_path / "gpt_ppo_critic.yaml"
            path.write_text(yaml.safe_dump(deepcopy(CRITIC), sort_keys=False))
            critic = read_aligner_config(path, critic_overrides, rules=CRITIC_RULES)
        return import_aligner_config(read_aligner_config(actor, overrides), new, critic=critic)

    return run


def test_settings_stand_in_the_recipe(translate):
    recipe = translate().recipe
    config = parse_config(recipe, TrainConfig, origin="recipe")
    # 8 nodes of 8 GPUs: tp 4 and pp 2 leave 8 data-parallel ranks.
    check_train_config(config, world_size=64)
    assert config.trainer.loop == "nemo_aligner"
    assert (config.trainer.steps, config.trainer.eval_every, config.trainer.save_every) == (
        *(500, 10, 10),
    )
    # 512 samples in groups of 8; updates on 128 of them.
    assert (config.rollout.prompts_per_step, config.rollout.group_size) == (64, 8)
    assert config.algorithm.updates_per_step == 4
    # A quarter of 4096 is for the response.
    assert (config.data.max_prompt_tokens, config.rollout.max_response_tokens) == (3072, 1024)
    assert config.algorithm.micro_batch_tokens == 8192
    assert (config.layout.tp, config.layout.pp, config.layout.sequence_parallel) == (4, 2, True)
    assert (config.algorithm.clip_low, config.algorithm.clip_high) == (0.2, 0.2)
    kl = config.algorithm.kl
    assert (kl.coefficient, kl.estimator, kl.place) == (0.01, "k1", "reward")
    assert config.algorithm.entropy_coefficient == 0.001
    assert config.algorithm.whiten_advantages
    assert (config.rollout.temperature, config.rollout.stop) == (0.9, ["<|endoftext|>"])
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.min_lr, optimizer.schedule) == (9e-7, 9e-8, "cosine")
    assert (optimizer.beta1, optimizer.beta2, optimizer.clip_grad) == (0.9, 0.98, 0.5)
    assert (config.run.name, config.run.dir, config.run.seed) == (
        *("megatron_gpt_ppo_actor", "/results", 1234),
    )
    assert config.evaluation.num_prompts == 512


def test_a_critics_settings_stand_in_the_recipe(translate):
    new = replace(NEW, critic_path="models/reward")
    found = translate(critic_overrides=[], new=new)
    config = parse_config(found.recipe, TrainConfig, origin="recipe")
    check_train_config(config, world_size=64)
    critic, algorithm = config.critic, config.algorithm
    assert (algorithm.advantage, algorithm.drop_uninformative_groups) == ("gae", False)
    # NeMo-Aligner does not count the steps in which the critic learns alone.
    assert (critic.warmup_steps, config.trainer.steps) == (20, 520)
    assert (critic.path, critic.dtype, critic.offload) == ("models/reward", "fp32", True)
    assert (critic.gamma, critic.lam, critic.value_clip) == (1.0, 0.95, 0.2)
    optimizer = critic.optimizer
    assert (optimizer.lr, optimizer.schedule, optimizer.warmup_steps) == (9e-6, "constant", 5)
    assert (optimizer.beta1, optimizer.beta2, optimizer.clip_grad) == (0.8, 0.9, 0.75)
    # The policy's own are as they were.
    assert (config.optimizer.lr, config.optimizer.beta1, config.optimizer.clip_grad) == (
        *(9e-7, 0.9, 0.5),
    )
    assert (config.run.dir, config.run.seed) == ("/results", 1234)
    assert "gae_lambda" not in " ".join(found.left_out)
    assert "one run" in found.critic_left_out["exp_manager.explicit_log_dir"]
    assert "run.seed" in found.critic_left_out["model.seed"]


def test_no_bound_on_values_stays_none(translate):
    recipe = translate(critic_overrides=["model.loss_clip_val=0"]).recipe
    assert parse_config(recipe, TrainConfig, origin="recipe").critic.value_clip is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("model.global_batch_size=64", "=64 .* 128 .*as many updates", id="updates"),
        pytest.param("model.tensor_model_parallel_size=8", "=8 .* 4 .*layout", id="tp"),
        pytest.param("model.context_parallel_size=2", "=2 .* 1 .*layout", id="cp"),
        pytest.param("model.reward_standardization.enable=True", "units of reward", id="scale"),
        pytest.param("model.use_avg_pool=True", "use_avg_pool=True .*every token", id="pool"),
        pytest.param("model.regression.num_attributes=5", "num_attributes=5", id="attributes"),
        pytest.param("model.optim.name=sgd", "optim.name=sgd .*AdamW", id="optimizer"),
        pytest.param("model.dropout=0.1", "model.dropout is not a key .*critic", id="unknown"),
    ],
)
def test_a_critics_setting_without_a_counterpart_is_refused_by_name(translate, override, message):
    with pytest.raises(ConfigError, match=message):
        translate(critic_overrides=[override])


def test_without_files_to_evaluate_on_nothing_is_evaluated(translate):
    found = translate(new=replace(NEW, eval_files=()))
    check_train_config(parse_config(found.recipe, TrainConfig, origin="recipe"), world_size=64)
    assert "no files" in found.left_out["trainer.ppo.val_check_interval"]


def test_what_is_left_out_has_a_reason(translate):
    left_out = translate().left_out
    assert "no critic" in left_out["trainer.ppo.gae_lambda"]
    assert "without servers" in left_out["remote_critic_rm.critic.name.train"]
    assert "last step" in left_out["model.optim.sched.constant_steps"]
    assert all(left_out.values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("trainer.ppo.max_steps=-1", "max_steps=-1 .*number of steps", id="epochs"),
        pytest.param("trainer.precision=16", "trainer.precision=16 .*bf16 and 32", id="fp16"),
        pytest.param("trainer.ppo.use_absolute_kl=True", "use_absolute_kl=True .*k1", id="kl"),
        pytest.param(
            "model.ppo.sampling_params.use_greedy=True", "use_greedy=True .*samples", id="greedy"
        ),
        pytest.param(
            "model.ppo.sampling_params.repetition_penalty=1.2", "penalty=1.2", id="penalty"
        ),
        pytest.param("model.optim.name=sgd", "optim.name=sgd .*AdamW", id="optimizer"),
        pytest.param("model.ppo.num_rollout_samples=500", "=500 .*group size 8", id="groups"),
        pytest.param("model.global_batch_size=96", "global_batch_size=96", id="updates"),
        pytest.param("model.ppo.length_params.max_length=4096", "leaves no prompt", id="length"),
        pytest.param("model.lora=True", "model.lora is not a key", id="unknown"),
        pytest.param("trainer.ppo.best_of=4", "trainer.ppo.best_of is not a key", id="in-the-loop"),
        pytest.param("model.peft.peft_scheme=lora", "peft_scheme=lora .*all weights", id="lora"),
        pytest.param("model.optim.lr=fast", "optimizer.lr", id="not-a-number"),
        pytest.param("model.optim.sched.warmup_ratio=.1", "ratio=0.1 .*in steps", id="warmup"),
        pytest.param("model.optim.weight_dekay=0", "weight_dekay is not a key", id="misspelt"),
        pytest.param("model.optim.name=[adamw]", r"name=\['adamw'\] .*AdamW", id="list"),
        pytest.param("model.optim.betas=[0.9]", r"betas=\[0.9\] must be two", id="betas"),
        pytest.param("model.optim.betas=null", "betas=None must be two", id="no-betas"),
        pytest.param("model.micro_batch_size=null", "micro_batch_size must be", id="null"),
        pytest.param(
            "trainer.ppo.initial_policy_kl_penalty=null",
            "kl_penalty=None must be",
            id="penalty-null",
        ),
        pytest.param("model.ppo.num_val_samples=null", "num_val_samples must be", id="prompts"),
        # 128 updates on 64 groups: the recipe would run on no number of ranks.
        pytest.param("model.global_batch_size=4", "updates_per_step=128 .*64 groups", id="check"),
    ],
)
def test_a_setting_without_a_counterpart_is_refused_by_name(translate, override, message):
    with pytest.raises(ConfigError, match=message):
        translate(override)


@pytest.mark.parametrize("size", [0, -8])
def test_a_group_of_no_samples_is_refused(translate, size):
    with pytest.raises(ConfigError, match=f"group of {size} samples"):
        translate(new=replace(NEW, group_size=size))


def test_betas_that_are_not_given_are_those_of_its_optimizers(translate, monkeypatch):
    monkeypatch.delitem(ACTOR["model"]["optim"], "betas")
    optimizer = translate().recipe["optimizer"]
    assert (optimizer["beta1"], optimizer["beta2"]) == (0.9, 0.999)


def test_a_schedule_may_be_missing(translate):
    found = translate("model.optim.sched=null")
    assert "schedule" not in found.recipe["optimizer"]
    assert "stays" in found.left_out["model.optim.sched"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("model: {}\n", "is no configuration of a PPO actor or critic", id="other"),
        pytest.param("- model\n- trainer\n", "is no configuration of a PPO actor", id="list"),
        pytest.param("", "is no configuration of a PPO actor", id="empty"),
        pytest.param("model: [1\ntrainer: }", "line 2", id="no-yaml"),
        pytest.param("model: {}\nmodel: {}\n", "duplicate key model", id="twice"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "other.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"other\.yaml.* {message}"):
        read_aligner_config(path)
