"""Tensors of experts are the same whether a file holds them stacked or apart.

The reference for the stacked form is what transformers itself writes.
"""

import pytest
import torch
from safetensors.torch import load_file

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.hf_spelling import StoredPart, other_spellings
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import hf_shapes
from tests.support.tiny_models import MIXTURES, save_tiny_model


def test_slice_of_a_part_counts_from_where_the_part_starts():
    up = StoredPart(name="gate_up", shape=(4, 6, 5), expert=2, first_row=3, num_rows=3)
    stored = torch.arange(4 * 6 * 5).view(4, 6, 5)
    assert torch.equal(stored[up.index(())], stored[2, 3:6])
    assert torch.equal(stored[up.index((slice(1, 3), slice(0, 2)))], stored[2, 4:6, 0:2])


def test_dense_family_has_one_spelling(tmp_path):
    save_tiny_model(tmp_path, "qwen3", num_layers=1)
    assert other_spellings(read_model_spec(tmp_path)) == {}


@pytest.mark.parametrize("family", MIXTURES)
def test_reader_finds_every_tensor_in_both_spellings(tmp_path, family):
    stacked, apart = tmp_path / "stacked", tmp_path / "apart"
    save_tiny_model(stacked, family, save_original_format=False, num_layers=2)
    save_tiny_model(apart, family, num_layers=2)
    assert (
        load_file(stacked / "model.safetensors").keys() != hf_shapes(read_model_spec(apart)).keys()
    )
    expected = load_file(apart / "model.safetensors")
    for folder in (stacked, apart):
        spec = read_model_spec(folder)
        with HfReader(folder, spellings=other_spellings(spec)) as reader:
            reader.check(hf_shapes(spec), ignored=set())
            for name in hf_shapes(spec):
                assert torch.equal(reader.read(name), expected[name]), name
                if expected[name].dim() == 2:
                    part = (slice(3, 9), slice(2, 5))
                    assert torch.equal(reader.read(name, part), expected[name][part]), name


def test_stacked_tensor_of_another_shape_is_refused_by_its_own_name(tmp_path):
    save_tiny_model(tmp_path, "mixtral", save_original_format=False, num_layers=1)
    wrong = tmp_path / "wrong"
    save_tiny_model(wrong, "mixtral", num_layers=1, num_local_experts=5)
    spec = read_model_spec(wrong)
    refusal = pytest.raises(CheckpointError, match=r"mlp\.(gate|experts).*shape \(4, ")
    with HfReader(tmp_path, spellings=other_spellings(spec)) as reader, refusal:
        reader.check(hf_shapes(spec), ignored=set())
