"""Parameters of Transformer Engine's modules under the names of the weight table.

The names are those of TELayerNormColumnParallelLinear and TEGroupedMLP in megatron-core 0.16.1 and
0.19.2; that the built modules have them is for tests/gpu.
"""

import pytest

from megatron_longrlvr.model.parameter_names import has_experts, table_name

EXPERTS = (6, 7)  # those of the last of four expert-parallel ranks


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
        ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
        ("self_attention.linear_qkv.weight", "self_attention.linear_qkv.weight"),
        ("self_attention.q_layernorm.weight", "self_attention.q_layernorm.weight"),
        ("mlp.linear_fc1.weight", "mlp.linear_fc1.weight"),
        ("mlp.router.weight", "mlp.router.weight"),
        ("pre_mlp_layernorm.weight", "pre_mlp_layernorm.weight"),
        (
            "mlp.experts.local_experts.1.linear_fc2.weight",
            "mlp.experts.local_experts.7.linear_fc2.weight",
        ),
        ("mlp.experts.linear_fc1.weight0", "mlp.experts.local_experts.6.linear_fc1.weight"),
        ("mlp.experts.linear_fc2.weight1", "mlp.experts.local_experts.7.linear_fc2.weight"),
    ],
)
def test_name_is_that_of_the_table(name, expected):
    assert table_name(name, EXPERTS if has_experts(name) else ()) == expected
