"""Experts are read from both spellings of ``config.json``, written back, or refused by key."""

import pytest
from transformers import MixtralConfig, Qwen3MoeConfig

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.expert_spec import ExpertSpec, expert_settings, read_experts

MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 48}
QWEN = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}


def read(architecture, config, num_layers=6):
    return read_experts(architecture, config, num_layers=num_layers)


def test_mixtral_divides_by_the_sum_of_the_chosen_weights():
    assert read("MixtralForCausalLM", MIXTRAL) == ExpertSpec(
        num_experts=8, num_per_token=2, intermediate_size=48, normalize_weights=True
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_qwen_says_whether_the_chosen_weights_are_divided(normalize):
    experts = read("Qwen3MoeForCausalLM", QWEN | {"norm_topk_prob": normalize})
    assert experts.normalize_weights is normalize
    assert read("Qwen3MoeForCausalLM", QWEN).normalize_weights is False


def test_both_spellings_of_the_number_of_experts_mean_the_same():
    newer = {key: value for key, value in QWEN.items() if key != "num_experts"}
    newer |= {"num_local_experts": 8}
    assert read("Qwen3MoeForCausalLM", newer) == read("Qwen3MoeForCausalLM", QWEN)


def test_dense_layers_are_the_listed_ones_and_those_between_the_steps():
    # Every second layer has experts, counted from 1: layers 1, 3 and 5; of these 3 is listed.
    config = QWEN | {"decoder_sparse_step": 2, "mlp_only_layers": [3]}
    assert read("Qwen3MoeForCausalLM", config).dense_layers == (0, 2, 3, 4)


def test_dense_family_has_no_experts():
    assert read("LlamaForCausalLM", MIXTRAL) is None


@pytest.mark.parametrize(
    ("architecture", "config", "key"),
    [
        pytest.param(
            "MixtralForCausalLM", MIXTRAL | {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1",
            id="jitter",
        ),
        pytest.param(
            "MixtralForCausalLM", MIXTRAL | {"num_experts_per_tok": 9}, "num_experts_per_tok=9",
            id="more-than-there-are",
        ),
        pytest.param(
            "MixtralForCausalLM", MIXTRAL | {"num_experts_per_tok": 1}, "num_experts_per_tok=1",
            id="weight-is-always-one",
        ),
        pytest.param(
            "Qwen3MoeForCausalLM", QWEN | {"num_local_experts": 4}, "num_local_experts=4",
            id="spellings-disagree",
        ),
        pytest.param(
            "Qwen3MoeForCausalLM", {"num_experts_per_tok": 3}, "num_experts", id="missing"
        ),
        pytest.param(
            "Qwen3MoeForCausalLM", QWEN | {"decoder_sparse_step": 7}, "decoder_sparse_step=7",
            id="no-layer-has-experts",
        ),
    ],
)  # fmt: skip
def test_unsupported_setting_is_refused_by_name(architecture, config, key):
    with pytest.raises(ConfigError) as refused:
        read(architecture, config)
    assert key in str(refused.value)


def test_written_settings_are_read_back_by_us_and_by_transformers():
    experts = ExpertSpec(
        num_experts=8,
        num_per_token=3,
        intermediate_size=24,
        normalize_weights=False,
        dense_layers=(0, 4),
    )
    written = expert_settings("Qwen3MoeForCausalLM", experts)
    assert read("Qwen3MoeForCausalLM", written) == experts
    theirs = Qwen3MoeConfig(num_hidden_layers=6, **written)
    assert (theirs.num_experts, theirs.num_experts_per_tok) == (8, 3)
    assert (theirs.moe_intermediate_size, theirs.norm_topk_prob) == (24, False)
    assert theirs.mlp_only_layers == [0, 4]

    mixtral = read("MixtralForCausalLM", MIXTRAL)
    theirs = MixtralConfig(**expert_settings("MixtralForCausalLM", mixtral))
    assert (theirs.num_local_experts, theirs.num_experts_per_tok) == (8, 2)
