"""The weight table.

Promised: shard and merge are exact inverses for every rule and degree; reading slices gives what
cutting whole tensors gives; the fused rows mean what Hugging Face's separate matrices mean; the
table names every tensor of a Hugging Face model, with its shape.
"""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from megatron_longrlvr.config.policy import NewExpertsConfig, NewModelConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.spec import spec_from_new
from megatron_longrlvr.model.weight_map import (
    merge,
    rules_for_layer,
    rules_for_model,
    shard,
    shard_shape,
    tied_output_rule,
)

FAMILIES = ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]
MIXTURES = ["MixtralForCausalLM", "Qwen3MoeForCausalLM"]
HF_CONFIGS = {
    "LlamaForCausalLM": LlamaConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
}
# As wide as make_spec's dense layers: Mixtral has one width for both.
EXPERTS = NewExpertsConfig(num_experts=3, num_experts_per_tok=2, intermediate_size=40)
# 30 rows do not divide by 4: the last rank's share is padded.
VOCABULARY = 30
# float32 sums of 24 products, in two orders.
PROJECTION_ATOL = 1e-5


def make_spec(family, *, tied=False, vocab_size=VOCABULARY):
    new = NewModelConfig(
        architecture=family,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=6,
        tie_word_embeddings=tied,
        experts=EXPERTS if family in MIXTURES else None,
    )
    return spec_from_new(new, vocab_size)


def random_tensors(rule):
    return [torch.randn(shape) for shape in rule.hf_shapes]


def rule_named(rules, name):
    return next(rule for rule in rules if rule.megatron_name == name)


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_merge_undoes_shard_bit_for_bit(family, tp):
    torch.manual_seed(0)
    spec = make_spec(family)
    for rule in rules_for_model(spec):
        tensors = random_tensors(rule)
        shards = [shard(rule, tensors, spec, tp_rank=rank, tp_size=tp) for rank in range(tp)]
        for one in shards:
            assert tuple(one.shape) == shard_shape(rule, spec, tp_size=tp), rule
        merged = merge(rule, shards, spec)
        assert tuple(merged) == rule.hf_names
        for tensor, name in zip(tensors, rule.hf_names, strict=True):
            assert torch.equal(merged[name], tensor), name


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_shards_together_hold_every_number_once(tp):
    # Sums of squares agree: nothing is lost, doubled or invented (padding is zero).
    torch.manual_seed(0)
    spec = make_spec("Qwen2ForCausalLM")
    for rule in rules_for_model(spec):
        tensors = [tensor.double() for tensor in random_tensors(rule)]
        shards = [shard(rule, tensors, spec, tp_rank=rank, tp_size=tp) for rank in range(tp)]
        num_copies = tp if rule.cut == "replicated" else 1
        whole = sum(tensor.square().sum() for tensor in tensors)
        total = sum(one.square().sum() for one in shards) / num_copies
        torch.testing.assert_close(total, whole)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_table_names_every_tensor_of_the_hugging_face_model(family, tied):
    spec = make_spec(family, tied=tied)
    config = HF_CONFIGS[family](
        vocab_size=spec.vocab_size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=6,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    table = {}
    for rule in rules_for_model(spec):
        table |= dict(zip(rule.hf_names, rule.hf_shapes, strict=True))
    assert table == expected


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_fused_rows_give_the_queries_keys_and_values_of_hugging_face(tp):
    """Read a rank's fused output the way megatron-core does: per group, queries then k then v."""
    torch.manual_seed(0)
    spec = make_spec("Qwen2ForCausalLM")
    rules = rules_for_layer(spec)
    weight_rule = rule_named(rules, "self_attention.linear_qkv.weight")
    bias_rule = rule_named(rules, "self_attention.linear_qkv.bias")
    weights, biases = random_tensors(weight_rule), random_tensors(bias_rule)
    hidden = torch.randn(5, 24)

    # As in Qwen2Attention: [T, heads, D] each.
    query, key, value = (
        (hidden @ weight.T + bias).view(5, -1, 6)
        for weight, bias in zip(weights, biases, strict=True)
    )
    queries_per_group, groups_per_rank = 2, 4 // tp
    for rank in range(tp):
        weight = shard(weight_rule, weights, spec, tp_rank=rank, tp_size=tp)
        bias = shard(bias_rule, biases, spec, tp_rank=rank, tp_size=tp)
        fused = (hidden @ weight.T + bias).view(5, groups_per_rank, queries_per_group + 2, 6)
        for local_group in range(groups_per_rank):
            group = rank * groups_per_rank + local_group
            expected_queries = query[:, group * queries_per_group : (group + 1) * queries_per_group]
            got = fused[:, local_group]
            torch.testing.assert_close(got[:, :2], expected_queries, rtol=0, atol=PROJECTION_ATOL)
            torch.testing.assert_close(got[:, 2], key[:, group], rtol=0, atol=PROJECTION_ATOL)
            torch.testing.assert_close(got[:, 3], value[:, group], rtol=0, atol=PROJECTION_ATOL)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_sharded_mlp_and_output_projection_sum_to_the_whole(tp):
    torch.manual_seed(0)
    spec = make_spec("LlamaForCausalLM")
    rules = rules_for_layer(spec)
    fc1 = rule_named(rules, "mlp.linear_fc1.weight")
    fc2 = rule_named(rules, "mlp.linear_fc2.weight")
    gate_up, down = random_tensors(fc1), random_tensors(fc2)
    hidden = torch.randn(5, 24)
    gate, up = gate_up
    whole = (torch.nn.functional.silu(hidden @ gate.T) * (hidden @ up.T)) @ down[0].T
    total = torch.zeros_like(whole)
    for rank in range(tp):
        first = shard(fc1, gate_up, spec, tp_rank=rank, tp_size=tp)
        second = shard(fc2, down, spec, tp_rank=rank, tp_size=tp)
        # megatron-core's gated MLP: the first half of the output is the gate.
        gate_part, up_part = (hidden @ first.T).chunk(2, dim=-1)
        total += (torch.nn.functional.silu(gate_part) * up_part) @ second.T
    # Products of three random matrices reach about 1e3.
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "router", "expert"),
    [
        pytest.param(
            "MixtralForCausalLM",
            "block_sparse_moe.gate.weight",
            ["block_sparse_moe.experts.1.w1.weight", "block_sparse_moe.experts.1.w3.weight"],
            id="mixtral",
        ),
        pytest.param(
            "Qwen3MoeForCausalLM",
            "mlp.gate.weight",
            ["mlp.experts.1.gate_proj.weight", "mlp.experts.1.up_proj.weight"],
            id="qwen3-moe",
        ),
    ],
)
def test_every_expert_has_its_rules_and_the_router_belongs_to_none(family, router, expert):
    rules = rules_for_layer(make_spec(family))
    assert rule_named(rules, "mlp.router.weight").hf_names == (router,)
    assert rule_named(rules, "mlp.router.weight").hf_shapes == ((3, 24),)
    fc1 = rule_named(rules, "mlp.experts.local_experts.1.linear_fc1.weight")
    assert (list(fc1.hf_names), fc1.expert) == (expert, 1)  # gate before up
    owners = [rule.expert for rule in rules if rule.expert is not None]
    assert owners == [0, 0, 1, 1, 2, 2]


def test_dense_layer_of_a_mixture_has_a_plain_mlp():
    spec = make_spec("Qwen3MoeForCausalLM")
    spec = replace(spec, experts=replace(spec.experts, dense_layers=(1,)))
    names = {rule.megatron_name for rule in rules_for_model(spec)}
    assert "decoder.layers.0.mlp.router.weight" in names
    assert "decoder.layers.1.mlp.linear_fc1.weight" in names
    assert not any(name.startswith("decoder.layers.1.mlp.experts") for name in names)


def test_padding_rows_are_zero_and_the_rest_in_order():
    spec = make_spec("LlamaForCausalLM")
    rule = rule_named(rules_for_model(spec), "embedding.word_embeddings.weight")
    embedding = torch.randn(30, 24)
    shards = [shard(rule, [embedding], spec, tp_rank=rank, tp_size=4) for rank in range(4)]
    padded = torch.cat(shards)  # 32 rows: the next multiple of 4
    assert padded.shape == (32, 24)
    assert torch.equal(padded[:30], embedding)
    assert not padded[30:].any()


def test_ranks_beyond_a_tiny_vocabulary_hold_only_padding():
    spec = make_spec("LlamaForCausalLM", vocab_size=5)
    rule = rule_named(rules_for_model(spec), "embedding.word_embeddings.weight")
    embedding = torch.randn(5, 24)
    # Padded to 8, 2 rows a rank: rank 2 has one row, rank 3 none.
    shards = [shard(rule, [embedding], spec, tp_rank=rank, tp_size=4) for rank in range(4)]
    assert torch.equal(shards[2][0], embedding[4])
    assert not shards[3].any()
    assert torch.equal(merge(rule, shards, spec)["model.embed_tokens.weight"], embedding)


def test_tied_model_has_no_output_rule_but_a_copy_for_the_last_stage():
    spec = make_spec("LlamaForCausalLM", tied=True)
    names = [rule.megatron_name for rule in rules_for_model(spec)]
    assert "output_layer.weight" not in names
    copy = tied_output_rule(spec)
    assert (copy.megatron_name, copy.hf_names) == (
        "output_layer.weight",
        ("model.embed_tokens.weight",),
    )


def test_degree_that_splits_a_kv_head_is_refused():
    spec = make_spec("LlamaForCausalLM")
    rule = rule_named(rules_for_layer(spec), "self_attention.linear_qkv.weight")
    with pytest.raises(ConfigError, match=r"layout\.tp=8 does not divide num_key_value_heads=4"):
        shard(rule, random_tensors(rule), spec, tp_rank=0, tp_size=8)


def test_degree_that_does_not_divide_the_mlp_is_refused():
    spec = make_spec("LlamaForCausalLM")
    rule = rule_named(rules_for_layer(spec), "mlp.linear_fc2.weight")
    with pytest.raises(ConfigError, match=r"layout\.tp=3 does not divide dim 1 of mlp\.down_proj"):
        shard(rule, random_tensors(rule), spec, tp_rank=0, tp_size=3)
