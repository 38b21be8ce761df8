"""A Hugging Face folder goes through torch_dist and comes back bit for bit, whatever the layout.

Also that megatron-core itself would have stored the same tensors under the same names, that
every layout loads a converted checkpoint, and that what any layout saved can be exported.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_longrlvr.checkpoint.manifest import checkpoint_directory
from megatron_longrlvr.conversion.hf_to_megatron import plan_import, run_import
from megatron_longrlvr.conversion.megatron_to_hf import plan_export, run_export
from megatron_longrlvr.conversion.ranks import Ranks, started_ranks
from megatron_longrlvr.conversion.source import find_source
from megatron_longrlvr.conversion.torch_dist_reader import TorchDistReader
from megatron_longrlvr.parallel.layout import ParallelLayout
from tests.distributed.test_checkpoint import build_learner, position
from tests.support.spawn import run_distributed
from tests.support.tiny_models import FAMILIES, MIXTURES, save_tiny_model

LAYOUTS = {
    "tp2": {"tp": 2},
    "pp2": {"pp": 2},
    "ep2": {"ep": 2},
    "tp2-pp2": {"tp": 2, "pp": 2},
}
# Every family in both cuts at once, and one of a kind in each cut alone.
FAMILIES_IN_LAYOUTS = [
    *((family, "tp2-pp2") for family in FAMILIES),
    ("llama", "tp2"),
    ("llama", "pp2"),
    *((family, "ep2") for family in MIXTURES),
]


SMOLLM2 = Path(__file__).parents[2] / "models" / "smollm2" / "hf"


def assert_same_tensors(found, expected):
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


# A tiny model's parameters have up to 13 KB: all but the norms are cut, some to the finest.
SMALL_PIECE_BYTES = 1000


def convert(folder, target, **settings):
    run_import(plan_import(folder, **settings), target, ranks=Ranks())
    return target


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_folder_comes_back_from_a_converted_checkpoint(tmp_path, family, tie):
    save_tiny_model(tmp_path / "hf", family, tie=tie)
    source = find_source(convert(tmp_path / "hf", tmp_path / "megatron"))
    run_export(plan_export(source), tmp_path / "back", ranks=Ranks())
    assert_same_tensors(tmp_path / "back", tmp_path / "hf")


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_comes_back_from_small_pieces(tmp_path, family):
    save_tiny_model(tmp_path / "hf", family)
    convert(tmp_path / "hf", tmp_path / "megatron", piece_bytes=SMALL_PIECE_BYTES)
    source = find_source(tmp_path / "megatron")
    stored = TorchDistReader(source.weights).tensors
    outputs = [stored[key] for key in stored if key.endswith("self_attention.linear_proj.weight")]
    assert sum(len(tensor.chunks) for tensor in outputs) > 4  # one a layer uncut
    run_export(plan_export(source), tmp_path / "back", ranks=Ranks())
    assert_same_tensors(tmp_path / "back", tmp_path / "hf")


def load_and_save(_rank, world_size, layout, model, run_dir):
    """Load ``model`` as a recipe would, and save a checkpoint before the first step."""
    from megatron_longrlvr.checkpoint.store import save_checkpoint

    learner = build_learner(ParallelLayout(world_size=world_size, **layout), model)
    save_checkpoint(
        checkpoint_directory(run_dir, 0), learner, position(learner), config_fingerprint="abc"
    )


@pytest.mark.parametrize(("family", "name"), FAMILIES_IN_LAYOUTS)
def test_any_layout_loads_what_was_converted_and_is_exported(pool2, pool4, tmp_path, family, name):
    folder, run_dir = tmp_path / "hf", tmp_path / "run"
    save_tiny_model(folder, family, tie=family == "qwen2")
    converted = convert(folder, tmp_path / "megatron", piece_bytes=SMALL_PIECE_BYTES)
    pool = pool4 if name == "tp2-pp2" else pool2
    pool.run(load_and_save, LAYOUTS[name], converted, run_dir)
    source = find_source(run_dir, model=folder)
    run_export(plan_export(source), tmp_path / "back", ranks=Ranks())
    assert_same_tensors(tmp_path / "back", folder)


@pytest.mark.skipif(
    not SMOLLM2.is_dir(), reason="bash launch/quickstart.sh --recipe smollm2_cpu makes the model"
)
@pytest.mark.parametrize("layout", [{"tp": 3}, {"pp": 2}], ids=["tp3", "pp2"])
def test_smollm2_comes_back_from_a_layout(tmp_path, layout):
    run_dir = tmp_path / "run"
    converted = convert(SMOLLM2, tmp_path / "megatron")
    run_distributed(load_and_save, 3 if "tp" in layout else 2, layout, converted, run_dir)
    source = find_source(run_dir, model=SMOLLM2)
    run_export(plan_export(source), tmp_path / "back", ranks=Ranks())
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "back", SMOLLM2))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.float()), name  # trained in fp32, published in bf16


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_tensors_are_those_that_megatron_core_stores(pool1, tmp_path, family):
    folder, run_dir = tmp_path / "hf", tmp_path / "run"
    save_tiny_model(folder, family)
    pool1.run(load_and_save, {}, folder, run_dir)
    ours = TorchDistReader(convert(folder, tmp_path / "megatron") / "learner").tensors
    theirs = TorchDistReader(checkpoint_directory(run_dir, 0) / "learner").tensors
    assert ours.keys() == theirs.keys()
    for key, stored in theirs.items():
        assert (ours[key].shape, ours[key].dtype) == (stored.shape, stored.dtype), key


def convert_together(_rank, _world_size, folder, target, back):
    with started_ranks() as ranks:
        run_import(plan_import(folder), target, ranks=ranks)
        run_export(plan_export(find_source(target)), back, ranks=ranks)


def test_two_ranks_convert_together(pool2, tmp_path):
    folder, target, back = (tmp_path / name for name in ("hf", "megatron", "back"))
    save_tiny_model(folder, "qwen3")
    pool2.run(convert_together, folder, target, back)
    files = sorted((target / "learner").glob("*.distcp"))
    assert [path.name for path in files] == ["__0_0.distcp", "__1_0.distcp"]
    # 4 layers of about 60 KB each and two embeddings of 13 KB: neither rank did it alone.
    assert all(path.stat().st_size > 50_000 for path in files)
    assert_same_tensors(back, folder)
    shutil.rmtree(back)
    run_export(plan_export(find_source(target)), back, ranks=Ranks())
    assert_same_tensors(back, folder)
