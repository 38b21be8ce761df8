"""transformers on a folder and the learner on what was made of it compute the same, layer by layer.

Where they do not, the first layer that differs is the one whose weights do.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_longrlvr.checkpoint.manifest import checkpoint_directory
from megatron_longrlvr.conversion.activations import disagreement, run_learner, run_transformers
from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.ranks import Ranks
from megatron_longrlvr.conversion.source import find_source
from tests.distributed.test_conversion import load_and_save
from tests.support.tiny_models import save_tiny_model

TOKEN_IDS = [3, 98, 41, 7, 7, 0, 55, 12]
# Values reach 5; float32 sums over 4 layers in another order move them by 4e-6.
ATOL = 1e-5


def run_checkpoint(_rank, _world_size, path, model):
    return run_learner(find_source(path, model=model), TOKEN_IDS)


@pytest.fixture
def convert(tmp_path):
    def run(family):
        save_tiny_model(tmp_path / "hf", family)
        run_import(plan_import(tmp_path / "hf"), tmp_path / "megatron", ranks=Ranks())
        return tmp_path / "hf", tmp_path / "megatron"

    return run


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_converted_checkpoint_computes_what_the_folder_does(pool1, convert, family):
    folder, converted = convert(family)
    (ours,) = pool1.run(run_checkpoint, converted, None)
    found = disagreement(run_transformers(folder, TOKEN_IDS), ours)
    assert found.logits <= ATOL
    assert len(found.layers) == 5  # the embedding and 4 layers
    assert max(found.layers) <= ATOL
    assert found.num_other_choices == 0


def test_checkpoint_of_a_run_computes_what_the_folder_does(pool1, convert, tmp_path):
    folder, converted = convert("llama")
    pool1.run(load_and_save, {}, converted, tmp_path / "run")
    (ours,) = pool1.run(run_checkpoint, checkpoint_directory(tmp_path / "run", 0), folder)
    assert disagreement(run_transformers(folder, TOKEN_IDS), ours).logits <= ATOL


def test_first_layer_that_differs_is_the_one_that_was_changed(pool1, convert):
    folder, converted = convert("llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"] += 1.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (ours,) = pool1.run(run_checkpoint, converted, None)
    found = disagreement(run_transformers(folder, TOKEN_IDS), ours)
    embedding_and_before, changed = found.layers[:3], found.layers[3]
    assert max(embedding_and_before) <= ATOL
    assert changed > 0.1
    assert found.logits > 0.1


def test_other_choices_are_counted():
    from megatron_longrlvr.conversion.activations import Activations

    first, second = (
        Activations(layers=(), logits=torch.tensor(logits))
        for logits in ([[0.0, 1.0], [3.0, 1.0]], [[0.0, 1.5], [0.5, 1.0]])
    )
    found = disagreement(first, second)
    assert (found.logits, found.num_other_choices) == (2.5, 1)
