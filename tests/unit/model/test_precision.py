"""A recipe's FP8 and offloading in megatron-core's words, and the tokens FP8 pads a row to.

The expected arguments are written out, from the fields of TransformerConfig in megatron-core 0.16.1
and 0.19.2. That Transformer Engine computes with them is for tests/gpu.
"""

import pytest
from pydantic import TypeAdapter

from megatron_longrlvr.config.acceleration import Fp8Config, OffloadConfig
from megatron_longrlvr.model.precision import (
    fp8_options,
    fp8_recipe_name,
    offload_options,
    parameter_options,
    row_multiple,
)
from megatron_longrlvr.parallel.layout import ParallelLayout

ATTENTION_STAYS = {"fp8_dot_product_attention": False, "fp8_multi_head_attention": False}


def fp8(**settings):
    return TypeAdapter(Fp8Config).validate_python(settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            {"kind": "delayed", "margin": 1, "history_steps": 16, "history": "most_recent"},
            {
                "fp8": "hybrid",
                "fp8_recipe": "delayed",
                "fp8_param": False,
                "fp8_margin": 1,
                "fp8_amax_history_len": 16,
                "fp8_amax_compute_algo": "most_recent",
            },
            id="delayed",
        ),
        pytest.param(
            {"kind": "current", "bf16_layers_at_start": 1, "bf16_layers_at_end": 2},
            {
                "fp8": "hybrid",
                "fp8_recipe": "tensorwise",
                "fp8_param": False,
                "first_last_layers_bf16": True,
                "num_layers_at_start_in_bf16": 1,
                "num_layers_at_end_in_bf16": 2,
            },
            id="current",
        ),
        pytest.param(
            {"kind": "blockwise", "parameters": True},
            {"fp8": "e4m3", "fp8_recipe": "blockwise", "fp8_param": True},
            id="blockwise",
        ),
        pytest.param(
            {"kind": "mxfp8", "format": "hybrid"},
            {"fp8": "hybrid", "fp8_recipe": "mxfp8", "fp8_param": False},
            id="mxfp8",
        ),
    ],
)
def test_each_recipe_has_its_arguments(settings, expected):
    assert fp8_options(fp8(**settings)) == {**expected, **ATTENTION_STAYS}
    assert fp8_recipe_name(fp8(**settings)) == expected["fp8_recipe"]


def test_bf16_adds_no_argument():
    assert fp8_options(None) == {}
    assert fp8_recipe_name(None) is None


def test_offloading_has_its_arguments():
    read = TypeAdapter(OffloadConfig).validate_python
    assert offload_options(None) == {}
    assert offload_options(read({"kind": "layers", "num_layers": 3})) == {
        "cpu_offloading": True,
        "cpu_offloading_num_layers": 3,
        "cpu_offloading_activations": True,
        "cpu_offloading_weights": False,
    }
    assert offload_options(read({"kind": "modules", "modules": ["core_attn", "attn_proj"]})) == {
        "fine_grained_activation_offloading": True,
        "offload_modules": ["core_attn", "attn_proj"],
    }


@pytest.mark.parametrize(
    ("degrees", "settings", "multiple"),
    [
        pytest.param({}, {"kind": "delayed"}, 16, id="delayed"),
        pytest.param({}, {"kind": "current"}, 16, id="current"),
        pytest.param({}, {"kind": "blockwise"}, 128, id="blockwise"),
        pytest.param({}, {"kind": "mxfp8"}, 32, id="mxfp8"),
        # Without sequence parallelism every tensor-parallel rank holds all tokens.
        pytest.param({"tp": 3}, {"kind": "mxfp8"}, 32, id="tp"),
        pytest.param({"tp": 3, "sequence_parallel": True}, {"kind": "mxfp8"}, 96, id="tp-sp"),
        # Two chunks a rank are 12 of 6 ranks, whose shares are 16 tokens each: lcm(12, 6 * 16).
        pytest.param({"cp": 6}, {"kind": "current"}, 96, id="cp"),
        pytest.param(
            {"tp": 2, "cp": 3, "sequence_parallel": True},
            {"kind": "blockwise"},
            768,
            id="tp-sp-cp",
        ),
    ],
)
def test_each_rank_holds_as_many_tokens_as_fp8_takes(degrees, settings, multiple):
    layout = ParallelLayout(world_size=12, **degrees)
    assert row_multiple(layout, fp8(**settings)) == multiple
    assert row_multiple(layout, None) == layout.sequence_multiple


@pytest.mark.parametrize(
    ("settings", "is_gathered", "is_in_gradients"),
    [
        ({"kind": "current"}, False, False),
        ({"kind": "blockwise", "parameters": True}, True, False),
        ({"kind": "mxfp8"}, False, False),
        ({"kind": "mxfp8", "parameters": True}, True, True),
    ],
)
def test_weights_in_fp8_are_gathered_where_they_can_lie(settings, is_gathered, is_in_gradients):
    assert parameter_options(fp8(**settings)) == {
        "fp8_param_gather": is_gathered,
        "reuse_grad_buf_for_mxfp8_param_ag": is_in_gradients,
    }
    assert not any(parameter_options(None).values())
