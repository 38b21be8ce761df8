"""Every shipped GPU recipe fits its cluster with prompts of 64K and of 128K tokens.

The plans are the commands in the recipes' heads. What the ranks hold is built for one recipe in
tests/unit/trainer/test_dry_run.py; here it is arithmetic.
"""

import pytest

from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.load import RECIPES, load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.hardware import parse_cluster
from megatron_longrlvr.planner.plan import make_plan
from megatron_longrlvr.planner.workload import read_workload
from tests.support.recipe_commands import GPU_RECIPES, plan_commands

COMMANDS = [
    pytest.param(command, id=f"{recipe}-{length}")
    for recipe in GPU_RECIPES
    for length, command in zip(("64k", "128k"), plan_commands(recipe), strict=True)
]
# What the paper's script sets, by the dotted key that it has here.
PAPER = {
    "rollout.prompts_per_step": 32,
    "rollout.group_size": 8,
    "rollout.max_response_tokens": 4096,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "data.max_prompt_tokens": 65536,
    "algorithm.updates_per_step": 4,
    "algorithm.clip_low": 0.2,
    "algorithm.clip_high": 0.28,
    "algorithm.dual_clip": 10.0,
    "algorithm.normalizer": "token_mean",
    "algorithm.kl.coefficient": 0.0,
    "algorithm.dynamic_sampling.enabled": True,
    "algorithm.dynamic_sampling.max_rounds": 10,
    "rewards.context.beta": 2.0,
    "rewards.context.eta": 0.1,
    "optimizer.lr": 1e-6,
    # Its scheduler advances with a step, ours with each of a step's four updates.
    "optimizer.warmup_steps": 4 * 5,
    "optimizer.weight_decay": 0.1,
    "optimizer.clip_grad": 1.0,
}


def planned(command):
    config = load_config(command.recipe, command.overrides, TrainConfig)
    cluster = parse_cluster(command.cluster)
    check_train_config(config, world_size=cluster.gpus)
    spec = find_architecture(config.model.path).spec
    return make_plan(read_workload(config, spec, world_size=cluster.gpus), cluster)


@pytest.mark.parametrize("command", COMMANDS)
def test_recipe_fits_its_cluster(command):
    assert planned(command).problems() == []


@pytest.mark.parametrize("recipe", GPU_RECIPES)
def test_the_second_command_reads_128k_tokens_with_responses(recipe):
    short, long = (planned(command).workload.longest for command in plan_commands(recipe))
    assert short.prompt == 65536
    # 131,072 positions of Llama 3.1 and of YaRN hold the response too.
    assert long.prompt in (131072 - 4096, 131072)
    assert long.response == 4096


@pytest.mark.parametrize("recipe", ["llama31_8b", "qwen25_7b_1m", "qwen25_14b_1m"])
def test_the_papers_models_have_the_papers_settings(recipe):
    config = load_config(recipe, [], TrainConfig)
    for key, expected in PAPER.items():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        assert value == expected, key


def test_recipe_that_wants_more_memory_than_a_gpu_has_is_refused():
    command = plan_commands("llama31_70b")[0]
    config = load_config("llama31_70b", ["model.recompute=none"], TrainConfig)
    cluster = parse_cluster(command.cluster)
    spec = find_architecture(config.model.path).spec
    plan = make_plan(read_workload(config, spec, world_size=cluster.gpus), cluster)
    (problem,) = plan.problems()
    assert problem.startswith("model.recompute=none: training takes")


def test_every_gpu_recipe_is_listed():
    own = {
        path.stem
        for path in RECIPES.glob("*.yaml")
        if "#   longrlvr plan " in path.read_text(encoding="utf-8")
    }
    assert own == set(GPU_RECIPES)
