"""What a plan moves is what the weight table lists, held where the layout puts it."""

import pytest

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import hf_shapes
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.refit.plan import plan_copies
from megatron_longrlvr.refit.sources import source_tensors

SPEC = read_model_spec(RECIPES / "toy_start")
NUM_WEIGHTS = 2 * 297 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64


@pytest.mark.parametrize("degrees", [{}, {"tp": 2}, {"tp": 4}, {"pp": 2}, {"tp": 2, "pp": 2}])
def test_every_rank_is_sent_the_whole_model(degrees):
    layout = ParallelLayout(world_size=4, **degrees)
    tensors = source_tensors(SPEC, layout)
    assert {tensor.hf_name: tensor.shape for tensor in tensors} == hf_shapes(SPEC)
    copies = plan_copies(tensors, layout, element_bytes=4)
    for target in range(4):
        sent = sum(copy.num_bytes for copy in copies if copy.target_rank == target)
        assert sent == 4 * NUM_WEIGHTS


def test_layers_come_from_their_stage():
    layout = ParallelLayout(world_size=2, pp=2)
    stages = {tensor.hf_name: tensor.stage for tensor in source_tensors(SPEC, layout)}
    assert stages["model.embed_tokens.weight"] == 0
    assert stages["model.layers.0.mlp.up_proj.weight"] == 0
    assert stages["model.layers.1.mlp.up_proj.weight"] == 1
    assert stages["lm_head.weight"] == 1
