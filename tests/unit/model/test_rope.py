"""Rotary embedding.

Promised: frequencies equal those of transformers for every supported kind, over random settings;
a rotation preserves lengths, makes scores depend on distances alone, and equals transformers' own
rotation of queries and keys.
"""

import json
import random

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from megatron_longrlvr.model.rope import apply_rotary, inverse_frequencies, rotation
from megatron_longrlvr.model.rope_spec import RopeSpec, read_rope

# Same float32 formula, operations in another order: a few units in the last place.
FREQUENCY_RTOL = 1e-6
# Sums of 16 products of float32 numbers of size 1.
SCORE_ATOL = 1e-5
NUM_RANDOM_SETTINGS = 50


def random_settings(kind, draw):
    settings = {"rope_type": kind, "rope_theta": 10 ** draw.uniform(3.5, 7)}
    if kind == "default":
        return settings
    settings["factor"] = draw.uniform(1.0, 40.0)
    if kind == "linear":
        return settings
    settings["original_max_position_embeddings"] = 2 ** draw.randint(9, 16)
    if kind == "llama3":
        settings["low_freq_factor"] = draw.uniform(0.5, 2.0)
        settings["high_freq_factor"] = draw.uniform(3.0, 9.0)
        return settings
    optional = {
        "beta_fast": draw.uniform(8.0, 64.0),
        "beta_slow": draw.uniform(0.5, 2.0),
        "attention_factor": draw.uniform(0.5, 2.0),
        "truncate": draw.random() < 0.5,
        "mscale": draw.uniform(0.5, 1.5),
        "mscale_all_dim": draw.uniform(0.5, 1.5),
    }
    return settings | {key: value for key, value in optional.items() if draw.random() < 0.5}


def theirs(settings, head_dim):
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters=dict(settings),
    )
    if settings["rope_type"] == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[settings["rope_type"]](config)


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
def test_frequencies_equal_those_of_transformers(kind):
    draw = random.Random(kind)
    for _ in range(NUM_RANDOM_SETTINGS):
        settings = random_settings(kind, draw)
        head_dim = draw.choice([8, 16, 64, 96, 128])
        expected, expected_scaling = theirs(settings, head_dim)
        rope = read_rope({"rope_parameters": settings, "max_position_embeddings": 131072})
        got, scaling = inverse_frequencies(rope, head_dim)
        context = json.dumps(settings) + f" head_dim={head_dim}"
        assert got.dtype == torch.float32, context
        torch.testing.assert_close(
            got, expected, rtol=FREQUENCY_RTOL, atol=0, msg=lambda text, c=context: f"{c}: {text}"
        )
        assert scaling == pytest.approx(expected_scaling, rel=1e-12), context


def test_default_frequencies_by_hand():
    frequencies, scaling = inverse_frequencies(RopeSpec(kind="default", theta=10_000.0), 4)
    # 10000^0 and 10000^-(2/4)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.01]), rtol=1e-6, atol=0)
    assert scaling == 1.0


def test_rotation_by_a_quarter_turn_by_hand():
    cos, sin = rotation(torch.tensor([0, 1]), torch.tensor([torch.pi / 2]), 1.0)
    x = torch.tensor([[[3.0, 5.0]], [[3.0, 5.0]]])
    # Position 0 stays; a quarter turn takes (3, 5) to (-5, 3).
    expected = torch.tensor([[[3.0, 5.0]], [[-5.0, 3.0]]])
    torch.testing.assert_close(apply_rotary(x, cos, sin), expected)


def test_score_depends_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    frequencies, scaling = inverse_frequencies(RopeSpec(kind="default", theta=1e4), 16)

    def score(query_position, key_position):
        cos, sin = rotation(torch.tensor([query_position, key_position]), frequencies, scaling)
        turned_query = apply_rotary(query, cos[:1], sin[:1])
        turned_key = apply_rotary(key, cos[1:], sin[1:])
        return (turned_query * turned_key).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100), rtol=0, atol=SCORE_ATOL)
    assert (score(7, 3) - score(7, 0)).abs() > 100 * SCORE_ATOL


def test_rotation_equals_that_of_transformers_at_packed_positions():
    torch.manual_seed(0)
    settings = {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, max_position_embeddings=256, rope_parameters=settings
    )
    positions = torch.tensor([0, 1, 2, 0, 1, 200, 5])
    query, key = torch.randn(7, 4, 16), torch.randn(7, 2, 16)
    cos, sin = LlamaRotaryEmbedding(config)(query, positions[None])
    expected = apply_rotary_pos_emb(query[None], key[None], cos, sin, unsqueeze_dim=2)

    rope = read_rope({"rope_parameters": settings})
    cos, sin = rotation(positions, *inverse_frequencies(rope, 16))
    for x, want in zip((query, key), expected, strict=True):
        torch.testing.assert_close(apply_rotary(x, cos, sin), want[0], rtol=0, atol=SCORE_ATOL)


def test_bfloat16_is_rotated_in_float32():
    torch.manual_seed(0)
    x = torch.randn(5, 2, 16).bfloat16()
    frequencies, scaling = inverse_frequencies(RopeSpec(kind="default", theta=1e4), 16)
    cos, sin = rotation(torch.arange(1000, 1005), frequencies, scaling)
    got = apply_rotary(x, cos, sin)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, apply_rotary(x.float(), cos, sin).bfloat16())
