"""A plan's time, work and verdict: by hand, by what must not change, and by the key it names."""

import json
import re
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from megatron_longrlvr.config.policy import LayoutConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.expert_spec import ExpertSpec
from megatron_longrlvr.model.spec import to_hf_config
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner import rates
from megatron_longrlvr.planner.compute import Machine, reduction_s
from megatron_longrlvr.planner.hardware import parse_cluster
from megatron_longrlvr.planner.parameters import model_parameters
from megatron_longrlvr.planner.plan import make_plan
from megatron_longrlvr.planner.search import Failure, search_layouts
from megatron_longrlvr.planner.workload import Lengths, read_workload
from tests.unit.config.recipe_content import train_config
from tests.unit.planner.workloads import SMALL, critic, workload

ONE = parse_cluster("h100:1x1")
EIGHT = parse_cluster("h100:8x1")


def test_shared_prompt_saves_the_tokens_it_should():
    shared = make_plan(workload(), ONE)
    repeated = make_plan(workload(shared_prompt=False), ONE)
    # 8 groups: 96 + 4 * 16 tokens, or 4 * (96 + 16).
    assert shared.packed_tokens == 8 * 160
    assert repeated.packed_tokens == 8 * 448
    assert repeated.train_tflop > 2 * shared.train_tflop


def test_model_flops_do_not_depend_on_the_layout():
    plans = [
        make_plan(workload(world_size=8, layout=layout), EIGHT)
        for layout in ({}, {"tp": 2, "sequence_parallel": True}, {"pp": 2}, {"cp": 2, "pp": 2})
    ]
    expected = plans[0].model_tflop
    assert [plan.model_tflop for plan in plans] == pytest.approx([expected] * len(plans))


def test_step_is_the_sum_of_its_phases_and_costs_by_the_hour():
    plan = make_plan(workload(world_size=8), EIGHT)
    assert plan.step_s == sum(phase.seconds for phase in plan.phases)
    assert plan.step_cost(3.0) == pytest.approx(plan.step_s * 8 * 3.0 / 3600)


def test_recomputing_costs_a_forward_pass():
    none = make_plan(workload(), ONE)
    full = make_plan(workload(recompute="full"), ONE)
    assert full.train_tflop == none.train_tflop
    assert full.update_s > 1.2 * none.update_s


def test_a_critic_costs_a_forward_pass_and_an_update():
    without = make_plan(workload(), ONE)
    here, away = (make_plan(workload(critic=critic(is_offloaded=flag)), ONE) for flag in (0, 1))
    # 8 groups: a number is read from each of 4 * 16 response tokens, and not 1000 logits.
    tokens = 8 * 64
    forward = without.train_tflop / 3 - 2 * 64 * 999 * tokens / 1e12
    assert here.model_tflop - without.model_tflop == pytest.approx(4 * forward)
    assert here.train_tflop == without.train_tflop
    seconds = [
        next(phase.seconds for phase in plan.phases if phase.name == "critic")
        for plan in (here, away)
    ]
    assert here.step_s == pytest.approx(without.step_s + seconds[0])
    # Weights and AdamW's state there and back over a link of 64 GB/s, of which a part is reached.
    size = 4 * (64 * 128 + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 1000 * 64 + 2 * 64
    moved = 2 * (14 * size) / (64e9 * rates.LINK)
    assert seconds[1] - seconds[0] == pytest.approx(moved, rel=1e-3)


def test_a_critic_that_does_not_fit_names_what_would_help():
    big = replace(SMALL, num_layers=4, hidden_size=8192, intermediate_size=2**16)
    plan = make_plan(workload(spec=big, critic=critic(spec=big)), ONE)
    assert any("critic.offload=true" in problem for problem in plan.problems())
    long = {"longest": Lengths(prompt=10_000_000, response=16), "micro_batch_tokens": 10_000_100}
    plan = make_plan(workload(**long, recompute="full", critic=critic()), ONE)
    assert any(problem.startswith("critic.recompute=none") for problem in plan.problems())


def test_interleaving_shrinks_the_bubble():
    plain, interleaved = (
        make_plan(workload(world_size=8, layout={"pp": 2, "vpp": vpp}), EIGHT) for vpp in (1, 2)
    )
    # Two micro-batches on two stages: 3 turns, or 2.5 of them, and as much to finish the update.
    assert interleaved.update_s < plain.update_s
    assert interleaved.train_tflop == plain.train_tflop


MIXTURE = replace(
    SMALL,
    architecture="MixtralForCausalLM",
    experts=ExpertSpec(
        num_experts=8, num_per_token=2, intermediate_size=128, normalize_weights=True
    ),
)


def test_a_refit_brings_the_experts_of_other_ranks():
    cluster = parse_cluster("h100:1x4")
    plan = make_plan(workload(spec=MIXTURE, world_size=4, layout={"ep": 4}), cluster)
    (refit,) = (phase.seconds for phase in plan.phases if phase.name == "refit")
    # Three quarters of them over the network; then the whole model is read and written.
    brought = 2 * 3 / 4 * (4 * 8 * 3 * 64 * 128)
    loaded = 2 * 2 * model_parameters(MIXTURE)
    assert refit == pytest.approx(
        brought / (50e9 * rates.LINK) + loaded / (3350e9 * rates.MEMORY), rel=1e-6
    )


def test_replicas_of_an_expert_lie_as_far_apart_as_a_stage_is_wide():
    layout = ParallelLayout(world_size=8, ep=4)
    machine = Machine(
        spec=MIXTURE, layout=layout, cluster=parse_cluster("h100:4x2"), practice=rates.OURS
    )
    # Two replicas, one on each node.
    seconds = reduction_s(machine, 0, 1e6, gradient_bytes=4, weight_bytes=2)
    assert seconds == pytest.approx(1e6 * 6 / 2 / (50e9 * rates.LINK))


def test_layout_for_another_cluster_is_refused():
    with pytest.raises(ConfigError, match="8 ranks and h100:1x1 has 1"):
        make_plan(workload(world_size=8), ONE)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        pytest.param({"rollout": {"memory_share": 0.02}}, r"rollout\.vllm\.memory_share", id="kv"),
        pytest.param(
            {"spec": replace(SMALL, num_layers=4, hidden_size=32768, intermediate_size=2**17)},
            r"layout\.tp=1, layout\.pp=1",
            id="weights",
        ),
        pytest.param(
            {
                "longest": Lengths(prompt=10_000_000, response=16),
                "micro_batch_tokens": 10_000_100,
                "recompute": "none",
            },
            r"model\.recompute=none",
            id="activations",
        ),
        pytest.param(
            {"rollout": {"memory_share": 0.94}}, r"rollout\.vllm\.memory_share", id="sampling"
        ),
    ],
)
def test_what_does_not_fit_names_the_key(changes, key):
    plan = make_plan(workload(**changes), ONE)
    assert any(re.match(key, problem) for problem in plan.problems())


def test_small_model_fits():
    assert make_plan(workload(), ONE).problems() == []


def recipe(**changes):
    return train_config(
        **{"rollout.engine": "vllm_colocated", "algorithm.micro_batch_tokens": 800, **changes}
    )


def test_recipe_is_read_with_the_longest_lengths():
    read = read_workload(recipe(), SMALL, world_size=2)
    assert read.longest == read.typical == Lengths(prompt=400, response=100)
    assert read.layout.dp == 2


def test_a_critic_is_read_with_what_it_shares_with_the_policy(tmp_path):
    reward_model = {**to_hf_config(replace(SMALL, num_layers=2)), "num_labels": 1}
    reward_model["architectures"] = ["LlamaForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(reward_model))
    settings = {
        "algorithm.advantage": "gae",
        "algorithm.drop_uninformative_groups": False,
        "model.recompute": "full",
    }
    own = {"path": str(tmp_path), "recompute": "none", "offload": True, "optimizer": {"lr": 1e-3}}
    as_policy = {"optimizer": {"lr": 1e-3, "host_frac": 0.25}}
    found, shared = (
        read_workload(recipe(**settings, critic=section), SMALL, world_size=1).critic
        for section in (own, as_policy)
    )
    assert found.spec.num_layers == 2
    assert (found.recompute, found.is_offloaded) == ("none", True)
    assert (shared.spec, shared.recompute, shared.host_frac) == (SMALL, "full", 0.25)
    with pytest.raises(ConfigError, match=r"critic\.path='nowhere'"):
        read_workload(
            recipe(**settings, critic={**as_policy, "path": "nowhere"}), SMALL, world_size=1
        )


def test_precision_and_offload_are_read():
    changes = {
        "model.dtype": "bf16",
        "model.layers": "transformer_engine",
        "model.fp8": {"kind": "delayed"},
        "optimizer.host_frac": 0.5,
    }
    read = read_workload(recipe(**changes), SMALL, world_size=1)
    assert (read.is_fp8, read.is_fused, read.host_frac) == (True, True, 0.5)
    with_fp8, without = make_plan(read, ONE), make_plan(replace(read, is_fp8=False), ONE)
    assert with_fp8.update_s < without.update_s
    (on_device,) = make_plan(replace(read, host_frac=0.0), ONE).stages
    (halved,) = with_fp8.stages
    # Half of 12 bytes a parameter.
    assert on_device.peak_gib - halved.peak_gib == pytest.approx(
        6 * model_parameters(SMALL) / 2**30
    )


def test_prompts_beyond_the_model_are_refused():
    with pytest.raises(ConfigError, match=r"data\.max_prompt_tokens=4000"):
        read_workload(recipe(**{"data.max_prompt_tokens": 4000}), SMALL, world_size=1)


def test_search_sorts_what_fits_and_explains_the_rest():
    result = search_layouts(recipe(), SMALL, parse_cluster("h100:4x1"))
    times = [plan.step_s for _, plan in result.best]
    assert len(times) == 10
    assert times == sorted(times)
    assert all(plan.problems() == [] for _, plan in result.best)
    keys = {failure.reason.partition("=")[0] for failure in result.failures}
    # The small model has two key/value heads, and layers for four stages of one chunk.
    assert keys <= {"rollout.prompts_per_step", "layout.pp", "layout.ep"}


def test_search_gives_the_settings_of_its_plans():
    config = recipe(**{"layout.sequence_parallel": False})
    result = search_layouts(config, SMALL, parse_cluster("h100:4x1"), num_best=10_000)
    candidate, plan = next(one for one in result.best if one[0].tp == 2)
    settings = OmegaConf.to_container(OmegaConf.from_dotlist(candidate.overrides()))
    tried = config.model_copy(update={"layout": LayoutConfig(**settings["layout"])})
    again = read_workload(tried, SMALL, world_size=4)
    assert again.layout == plan.workload.layout


@pytest.mark.parametrize(
    "reason",
    [
        "rollout.vllm.memory_share: the engine takes 76.2 GiB",
        "rollout.vllm.memory_share=0.02: beside 3.0 GiB of weights",
    ],
)
def test_failures_are_told_apart_by_the_key_to_change(reason):
    result = search_layouts(recipe(), SMALL, parse_cluster("h100:4x1"))
    failure = Failure(candidate=result.best[0][0], reason=reason)
    assert failure.key == "rollout.vllm.memory_share"


def test_layouts_of_many_gpus_are_enumerated_at_once():
    result = search_layouts(recipe(), SMALL, parse_cluster("h100:8x100000007"))
    assert result.best == []


@pytest.mark.parametrize(
    ("heads", "width", "message"),
    [
        pytest.param((4, 2), 3, "=3 does not divide the model's 4 attention heads", id="heads"),
        pytest.param((12, 4), 6, "=6 neither divides the model's 4 key/value", id="kv-heads"),
    ],
)
def test_an_engine_that_cannot_be_cut_so_is_refused(heads, width, message):
    spec = replace(SMALL, num_heads=heads[0], num_kv_heads=heads[1])
    config = recipe(**{"rollout.vllm": {"tensor_parallel": width}})
    with pytest.raises(ConfigError, match=rf"rollout\.vllm\.tensor_parallel{message}"):
        read_workload(config, spec, world_size=width)
    repeated = recipe(**{"rollout.vllm": {"tensor_parallel": 4}})
    assert read_workload(repeated, SMALL, world_size=4).rollout.tensor_parallel == 4


def test_search_finds_nothing_where_nothing_fits():
    big = replace(SMALL, hidden_size=2**17, intermediate_size=2**19)
    result = search_layouts(recipe(), big, parse_cluster("h100:1x1"))
    assert result.best == []
    assert all("layout.tp=1" in failure.reason for failure in result.failures)
