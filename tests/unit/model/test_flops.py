"""FLOPs equal a count by hand, and PyTorch's own counter on transformers' model."""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from megatron_longrlvr.model.expert_spec import ExpertSpec
from megatron_longrlvr.model.flops import forward_flops, group_work, sampling_work
from megatron_longrlvr.model.rope_spec import RopeSpec
from megatron_longrlvr.model.spec import ModelSpec, read_model_spec
from tests.support.tiny_models import VOCAB_SIZE, save_tiny_model

SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    vocab_size=10,
    hidden_size=4,
    intermediate_size=6,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    norm_eps=1e-6,
    tie_word_embeddings=False,
    qkv_bias=False,
    qk_norm=False,
    rope=RopeSpec(kind="default", theta=10_000.0),
    max_position_embeddings=64,
    initializer_range=0.02,
)


def test_forward_equals_the_count_by_hand():
    # Weights of a layer: q and o 2 * 4 * 4 = 32, k and v 2 * 4 * 2 = 16, mlp 3 * 4 * 6 = 72: 120.
    # Prompt 3 once, responses 2 and 1: 6 tokens; 2 * 120 * 2 layers * 6 = 2880.
    # Pairs: prompt 6, response of 2: 2 * 3 + 3 = 9, of 1: 3 + 1 = 4; 19 pairs.
    # A pair costs 4 * 4 numbers * 2 layers = 32: 608. Logits: 3 * 2 * 4 * 10 = 240.
    work = group_work(3, [2, 1], shared_prompt=True)
    assert (work.tokens, work.pairs, work.predictions) == (6, 19, 3)
    assert forward_flops(SPEC, work) == 2880 + 608 + 240


def test_token_of_a_mixture_goes_through_the_router_and_its_own_experts():
    # Attention of a layer: 32 + 16 = 48. Layer 0 is dense: 48 + 72 = 120. Layer 1: router 4 * 8,
    # 3 of 8 experts with 3 * 4 * 5 = 60 each: 48 + 32 + 180 = 260.
    # 6 tokens: 2 * (120 + 260) * 6 = 4560; pairs and logits as without experts.
    experts = ExpertSpec(
        num_experts=8,
        num_per_token=3,
        intermediate_size=5,
        normalize_weights=True,
        dense_layers=(0,),
    )
    mixture = replace(SPEC, architecture="Qwen3MoeForCausalLM", experts=experts)
    work = group_work(3, [2, 1], shared_prompt=True)
    assert forward_flops(mixture, work) == 4560 + 608 + 240


def test_repeated_prompt_is_counted_for_each_response():
    # Samples of 5 and 4 tokens: 15 + 10 pairs.
    work = group_work(3, [2, 1], shared_prompt=False)
    assert (work.tokens, work.pairs, work.predictions) == (9, 25, 3)


def test_sampling_feeds_all_but_the_last_tokens():
    # Prompt 3, fed 1 and 0: 4 tokens, 6 + (3 + 1) pairs; logits for all 3 written tokens.
    work = sampling_work(3, [2, 1])
    assert (work.tokens, work.pairs, work.predictions) == (4, 10, 3)


def test_forward_equals_the_counter_of_pytorch(tmp_path):
    model = save_tiny_model(tmp_path, "llama")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 20, dtype=torch.int64))
    # transformers' eager attention computes all 20 * 20 pairs, and logits at all tokens.
    spec = read_model_spec(tmp_path)
    causal = forward_flops(spec, group_work(20, [], shared_prompt=True))
    hidden_pairs = 20 * 19 // 2 * 4 * spec.num_heads * spec.head_dim * spec.num_layers
    logits = 20 * 2 * spec.hidden_size * VOCAB_SIZE
    # Both counters see the rotation's outer product of positions and frequencies apart.
    rotation = 20 * spec.head_dim
    assert counter.get_total_flops() - (causal + hidden_pairs + logits) in (0, rotation)
