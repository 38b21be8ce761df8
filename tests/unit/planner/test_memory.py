"""Memory by hand, and the published sizes of the models that recipes name."""

from dataclasses import replace

import pytest

from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.hardware import GIB, parse_cluster
from megatron_longrlvr.planner.memory import engine_memory, kept_activation_bytes, plan_memory
from megatron_longrlvr.planner.packing import update_rows
from megatron_longrlvr.planner.parameters import (
    model_parameters,
    optimizer_bytes,
    stage_holdings,
    weight_bytes,
)
from tests.unit.planner.workloads import SMALL, critic, workload

H100 = parse_cluster("h100:8x1").accelerator
# One layer: qkv 64 x (64 + 2*32), proj 64 x 64, gate and up 2 * 64 x 128, down 128 x 64, two norms.
LAYER = 64 * 128 + 64 * 64 + 3 * 64 * 128 + 2 * 64
MODEL = 4 * LAYER + 2 * 1000 * 64 + 64


def term(terms, name):
    return next(one.gib * GIB for one in terms if one.name == name)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Llama-3.1-8B-Instruct", 8.030),
        ("Llama-3.1-70B-Instruct", 70.554),
        ("Qwen2.5-7B-Instruct-1M", 7.616),
        ("Qwen2.5-14B-Instruct-1M", 14.770),
        ("Qwen2.5-72B-Instruct", 72.706),
        ("Qwen3-30B-A3B-Instruct-2507", 30.532),
    ],
)
def test_known_architectures_have_the_published_number_of_parameters(name, billions):
    found = find_architecture(f"somewhere/{name}")
    assert found.folder is None
    assert model_parameters(found.spec) / 1e9 == pytest.approx(billions, abs=5e-4)


def test_stages_hold_the_model_between_them():
    layout = ParallelLayout(world_size=4, tp=2, pp=2, sequence_parallel=True)
    first, last = stage_holdings(SMALL, layout, is_sharded=False)
    norms = 2 * 64  # of each layer, held whole by both ranks
    layers = 2 * ((LAYER - norms) // 2 + norms)
    assert first.parameters == layers + 1000 * 64 // 2
    assert last.parameters == layers + 1000 * 64 // 2 + 64


def test_one_rank_holds_weights_gradients_and_state():
    (memory,) = plan_memory(workload(), H100)
    # 64 and 128 divide every parameter but none of the sum: the buffer is filled up to 128.
    filled = -(-MODEL // 128) * 128
    assert term(memory.resident, "weights") == 2 * filled
    assert term(memory.resident, "gradients") == 4 * filled
    assert term(memory.resident, "optimizer") == 12 * MODEL


def test_optimizer_state_is_shared_out_and_has_no_master_weights_in_fp32():
    layout = ParallelLayout(world_size=4, cp=2)
    (holding,) = stage_holdings(SMALL, layout, is_sharded=True)
    sharded = {"is_sharded": True}
    assert optimizer_bytes(holding, layout, element_bytes=2, **sharded) == 12 * MODEL / 4
    assert optimizer_bytes(holding, layout, element_bytes=4, **sharded) == 8 * MODEL / 4
    assert weight_bytes(holding, element_bytes=2, is_sharded=False) == 2 * MODEL


def test_kept_activations_by_hand():
    (memory,) = plan_memory(workload(), H100)
    tokens, hidden, query, key, ffn = 96 + 4 * 16, 64, 64, 32, 128
    norm = 4 * hidden + 4 + 2 * 2 * hidden
    attention = 2 * (2 * query + key + query + 2 * key) + 4 * 4
    layers = 4 * tokens * (2 * norm + attention + 5 * 2 * ffn)
    shared = tokens * (2 * 4 * 16 + 8)  # rotation, token ids
    head = tokens * (4 * hidden + 4 + 2 * hidden) + 4 * 16 * (2 * hidden + 24)
    assert term(memory.training, "activations") == layers + shared + head


def test_an_interleaved_last_stage_holds_one_head_by_hand():
    spec, layout = replace(SMALL, num_layers=8), {"pp": 4, "vpp": 2}
    interleaved = workload(spec=spec, world_size=4, layout=layout)
    rows = update_rows(interleaved, interleaved.longest)
    # Four micro-batches went through the first of its two layers, one through the second, whose
    # backward is next.
    tokens, layer, rotation = 160, 2 * 516 + 2 * 288 + 16 + 1280, 2 * 4 * 16
    head = tokens * (4 * 64 + 4 + 2 * 64) + 64 * (2 * 64 + 24)
    assert kept_activation_bytes(interleaved, rows, 3) == tokens * (5 * layer + 3 * rotation) + head


def test_full_recompute_keeps_inputs_of_layers_and_one_layer():
    (none,) = plan_memory(workload(), H100)
    (full,) = plan_memory(workload(recompute="full"), H100)
    saved = term(none.training, "activations") - term(full.training, "activations")
    # Three of four layers' tensors for four layers' inputs; the head is gone when the last layer
    # runs again, and the rotation with the other layers of it.
    tokens, head = 160, 160 * (4 * 64 + 4 + 2 * 64) + 64 * (2 * 64 + 24)
    layer = tokens * (2 * 516 + 2 * 288 + 16 + 1280)
    assert saved == 3 * layer - 4 * tokens * 128 + head


def test_repeated_prompts_hold_samples_of_their_own():
    shared, repeated = (
        plan_memory(workload(shared_prompt=is_shared, micro_batch_tokens=112), H100)[0]
        for is_shared in (True, False)
    )
    # 112 tokens are one sample either way, so the micro-batches are the same.
    assert shared.training_gib == repeated.training_gib


def test_engine_keeps_what_its_share_leaves():
    engine = engine_memory(workload(), H100)
    weights = 2 * MODEL
    assert engine.weights_gib * GIB == weights
    assert engine.cache_gib == pytest.approx(0.5 * H100.memory_gib - 2.0 - weights / GIB)
    # Keys and values, 4 layers, 2 heads of 16, bf16.
    assert engine.cache_tokens == int(engine.cache_gib * GIB / (2 * 4 * 2 * 16 * 2))


def test_reference_model_takes_its_weights():
    with_reference = plan_memory(replace(workload(), has_reference=True), H100)[0]
    assert term(with_reference.resident, "reference") == 2 * MODEL


def test_engine_that_does_not_sleep_keeps_its_memory_in_training():
    asleep, awake = (
        plan_memory(workload(rollout={"sleep_level": level}), H100)[0] for level in (1, 0)
    )
    kept = sum(one.gib for one in awake.sampling)
    assert awake.training_gib - asleep.training_gib == pytest.approx(kept - 1.5)


def test_a_critic_holds_as_much_again_but_for_the_output_layer():
    (memory,) = plan_memory(workload(critic=critic()), H100)
    size = MODEL - 1000 * 64 + 64
    filled = -(-size // 128) * 128
    assert term(memory.resident, "critic weights") == 2 * filled
    assert term(memory.resident, "critic gradients") == 4 * filled
    assert term(memory.resident, "critic optimizer") == 12 * size
    # Of its head: where it reads, hidden states in fp32, and six numbers of the loss.
    policy = term(memory.training, "activations") - 64 * (2 * 64 + 24)
    assert term(memory.critic, "activations") == policy + 64 * (8 + 4 * 64 + 24)


def test_a_critic_in_host_memory_is_there_while_it_learns():
    here, away = (
        plan_memory(workload(critic=critic(is_offloaded=flag)), H100)[0] for flag in (False, True)
    )
    assert away.critic_gib == pytest.approx(here.critic_gib)
    (without,) = plan_memory(workload(), H100)
    assert away.training_gib == without.training_gib
    assert away.sampling_gib == without.sampling_gib < here.sampling_gib
    assert without.critic_gib == 0
