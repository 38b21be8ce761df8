"""The planner's bytes are those of the built model: exact for weights, gradients and optimizer
state, and within its stated bound for what autograd keeps.

All layouts and options of the second are in tests/records/activations.json, which
tools/check_activations.py makes; a few are counted again here.
"""

from dataclasses import replace

import pytest
import torch

from megatron_longrlvr.config.policy import ModelConfig, OptimizerConfig
from megatron_longrlvr.model.build import DTYPES, build_chunks_of
from megatron_longrlvr.model.critic_model import CriticModel
from megatron_longrlvr.model.optimizer import build_optimizer, wrap_for_training
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.parameters import (
    gradient_bytes,
    optimizer_bytes,
    stage_holdings,
    weight_bytes,
)
from tests.support.saved_bytes import CASES, CRITIC_CASES, compare, tiny_spec

ELEMENT_BYTES = {"bf16": 2, "fp32": 4}
ACTIVATIONS_RTOL = 0.1  # what the planner promises; most cases are exact to the byte
# A rank's share of a buffer may end in padding: below 128 elements, of 12 bytes of state each.
PADDING_BYTES = 128 * 12


def allocated(_rank, world_size, model, layout, dtype, tie, is_critic=False):
    """Bytes of weights, gradients and optimizer state on this rank, and what is planned."""
    spec = tiny_spec(model, tie_word_embeddings=tie)
    layout = ParallelLayout(world_size=world_size, **layout)
    groups = start_process_groups(layout, seed=0)
    kind = CriticModel if is_critic else PolicyModel
    chunks = build_chunks_of(kind, spec, groups, ModelConfig(path="-", dtype=dtype))
    if is_critic:
        spec = replace(spec, tie_word_embeddings=False)
    for chunk in chunks:
        for parameter in chunk.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    wrapped = wrap_for_training(chunks, groups, is_distributed=True)
    optimizer = build_optimizer(wrapped, OptimizerConfig(lr=1e-3), dtype=DTYPES[dtype])
    for chunk in wrapped:
        chunk.zero_grad_buffer()
    optimizer.step()
    buffers = [b for c in wrapped for b in (*c.buffers, *c.expert_parallel_buffers)]
    state = sum(_state_bytes(one, dtype) for one in _chained(optimizer))
    (holding, *_) = stage_holdings(spec, layout, is_sharded=True, has_value_head=is_critic)[
        groups.pp_rank :
    ]
    element = ELEMENT_BYTES[dtype]
    planned = (
        weight_bytes(holding, element_bytes=element, is_sharded=True),
        gradient_bytes(holding),
        optimizer_bytes(holding, layout, element_bytes=element, is_sharded=True),
    )
    found = (
        sum(buffer.param_data.nbytes for buffer in buffers),
        sum(buffer.grad_data.nbytes for buffer in buffers),
        state,
    )
    return found, planned, groups.pp_rank


def _chained(optimizer):
    return getattr(optimizer, "chained_optimizers", [optimizer])


def _state_bytes(optimizer, dtype):
    moments = sum(
        value.nbytes
        for state in optimizer.optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    )
    if dtype == "fp32":
        return moments
    # The weights that AdamW steps on are fp32 copies.
    return moments + sum(
        parameter.nbytes
        for group in optimizer.optimizer.param_groups
        for parameter in group["params"]
    )


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("model", "layout", "tie"),
    [
        pytest.param("llama", {}, False, id="dp2"),
        pytest.param("llama", {"tp": 2, "sequence_parallel": True}, True, id="tp2-tied"),
        pytest.param("llama", {"pp": 2, "vpp": 2}, True, id="pp2-vpp2-tied"),
        pytest.param("qwen3", {"cp": 2}, False, id="cp2-qk-norm"),
        pytest.param("experts", {"ep": 2}, False, id="ep2"),
    ],
)
def test_weights_gradients_and_state_are_planned_to_the_byte(pool2, model, layout, tie, dtype):
    ranks = pool2.run(allocated, model, layout, dtype, tie)
    for found, planned, _ in ranks:
        assert found[:2] == planned[:2]
        assert found[2] == pytest.approx(planned[2], abs=PADDING_BYTES)
    # Between them the ranks hold the state of each parameter once, whoever has the padding.
    assert sum(found[2] for found, _, _ in ranks) == sum(planned[2] for _, planned, _ in ranks)


@pytest.mark.parametrize("layout", [{"tp": 2, "sequence_parallel": True}, {"pp": 2}], ids=str)
def test_a_critic_of_a_tied_model_is_planned_to_the_byte(pool2, layout):
    for found, planned, _ in pool2.run(allocated, "llama", layout, "bf16", True, True):
        assert found[:2] == planned[:2]
        assert found[2] == pytest.approx(planned[2], abs=PADDING_BYTES)


@pytest.mark.parametrize(
    ("name", "recompute"),
    [
        ("tp=2, sequence parallel", "none"),
        ("cp=2", "selective"),
        ("pp=2, vpp=2", "full"),
        ("experts, ep=2", "none"),
        ("critic, tp=2, sequence parallel", "none"),
        ("critic, pp=2", "full"),
    ],
)
def test_kept_activations_are_what_hooks_count(pool2, name, recompute):
    case = next(case for case in (*CASES, *CRITIC_CASES) if case.name == name)
    for one in pool2.run(compare, case, recompute):
        assert one.planned == pytest.approx(one.counted, rel=ACTIVATIONS_RTOL)
