"""A Hugging Face folder goes through the real model of every layout and comes back bit for bit.

Every rank, whatever it holds, gets the full tensors, in the same order; beside the model it never
holds more than a bucket and the tensor in hand. That the weights also
mean the same there (logits, gradients) is the business of the layout tests.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.hf_export import export_hf
from megatron_longrlvr.model.hf_weights import export_hf_tensors, load_hf_weights
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.policy import load_policy
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import hf_shapes, shard, tied_output_rule
from megatron_longrlvr.parallel.groups import start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout
from tests.support.live_tensors import LiveTensors
from tests.support.tiny_models import FAMILIES, MIXTURES, save_tiny_model

# Tensors of these models have up to 13 kB: some of them alone in a bucket, most of them not.
BUCKET_BYTES = 10_000
LAYOUTS_OF_2 = [
    pytest.param(ParallelLayout(world_size=2, tp=2), id="tp2"),
    pytest.param(ParallelLayout(world_size=2, tp=2, sequence_parallel=True), id="tp2-sp"),
    pytest.param(ParallelLayout(world_size=2, pp=2), id="pp2"),
    pytest.param(ParallelLayout(world_size=2, pp=2, vpp=2), id="pp2-vpp2"),
    pytest.param(ParallelLayout(world_size=2, cp=2), id="cp2"),
]

LAYOUTS_OF_EXPERTS = [
    pytest.param(ParallelLayout(world_size=2, tp=2, sequence_parallel=True), id="tp2-sp"),
    pytest.param(ParallelLayout(world_size=2, pp=2), id="pp2"),
    pytest.param(ParallelLayout(world_size=2, pp=2, vpp=2), id="pp2-vpp2"),
    pytest.param(ParallelLayout(world_size=2, ep=2), id="ep2"),
]
LAYOUTS_OF_4 = [
    pytest.param(ParallelLayout(world_size=4, tp=2, ep=2, sequence_parallel=True), id="tp2-ep2"),
    pytest.param(ParallelLayout(world_size=4, pp=2, ep=2), id="pp2-ep2"),
    pytest.param(ParallelLayout(world_size=4, ep=4), id="ep4"),
]


def load_and_export(_rank, _world_size, layout, folder, dtype, expected_folder=None):
    """Names in order, those whose tensors are not the folder's, and the state of a tied copy."""
    from megatron_longrlvr.model.build import build_chunks

    groups = start_process_groups(layout, seed=1)
    spec = read_model_spec(folder)
    chunks = build_chunks(spec, groups, ModelConfig(path=str(folder), dtype=dtype))
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.data.fill_(torch.nan)
    load_hf_weights(chunks, folder, spec, tp_rank=groups.tp_rank, tp_size=layout.tp)
    expected = load_file((expected_folder or folder) / "model.safetensors")
    names, wrong = [], []
    groups_by_name = {"tp_group": groups.tp, "pp_group": groups.pp, "ep_group": groups.ep}
    for name, tensor in export_hf_tensors(
        chunks, spec, **groups_by_name, bucket_bytes=BUCKET_BYTES
    ):
        names.append(name)
        if not torch.equal(tensor, expected[name].to(tensor.dtype)):
            wrong.append(name)
    embedding = expected["model.embed_tokens.weight"]
    return names, wrong, tied_copy_is_right(chunks, spec, groups, embedding)


def tied_copy_is_right(chunks, spec, groups, embedding):
    """Whether a tied last stage's own copy is the embedding; None where there is no copy."""
    last = chunks[-1]
    if not (spec.tie_word_embeddings and last.post_process and groups.layout.pp > 1):
        return None
    place = {"tp_rank": groups.tp_rank, "tp_size": groups.layout.tp}
    own = shard(tied_output_rule(spec), [embedding], spec, **place)
    return torch.equal(last.output_layer.weight, own.to(last.output_layer.weight.dtype))


def check(results, folder):
    spec = read_model_spec(folder)
    for names, wrong, is_copy_right in results:
        assert names == list(hf_shapes(spec))
        assert wrong == []
        assert is_copy_right is not False


@pytest.mark.parametrize("layout", LAYOUTS_OF_2)
@pytest.mark.parametrize(
    ("family", "tie"), [("llama", False), ("qwen2", True), ("qwen3", False)], ids=str
)
def test_folder_comes_back_from_two_ranks(pool2, tmp_path, layout, family, tie):
    save_tiny_model(tmp_path, family, tie=tie)
    check(pool2.run(load_and_export, layout, tmp_path, "fp32"), tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS_OF_EXPERTS)
@pytest.mark.parametrize("family", ["qwen3_moe"])
def test_folder_of_a_mixture_comes_back_from_two_ranks(pool2, tmp_path, layout, family):
    save_tiny_model(tmp_path, family)
    check(pool2.run(load_and_export, layout, tmp_path, "fp32"), tmp_path)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(ParallelLayout(world_size=2, tp=2, sequence_parallel=True), id="tp2-sp"),
        pytest.param(ParallelLayout(world_size=2, ep=2), id="ep2"),
    ],
)
@pytest.mark.parametrize("family", MIXTURES)
def test_experts_that_a_file_holds_stacked_are_the_experts_apart(pool2, tmp_path, layout, family):
    stacked, apart = tmp_path / "stacked", tmp_path / "apart"
    save_tiny_model(stacked, family, save_original_format=False)
    save_tiny_model(apart, family)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(stacked / "model.safetensors")
    check(pool2.run(load_and_export, layout, stacked, "fp32", apart), apart)


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_comes_back_from_one_rank(pool1, tmp_path, family):
    save_tiny_model(tmp_path, family)
    layout = ParallelLayout(world_size=1)
    check(pool1.run(load_and_export, layout, tmp_path, "fp32"), tmp_path)


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_folder_comes_back_from_four_ranks_in_bfloat16(pool4, tmp_path, tie):
    save_tiny_model(tmp_path, "qwen2", tie=tie)
    layout = ParallelLayout(world_size=4, tp=2, pp=2, sequence_parallel=True)
    check(pool4.run(load_and_export, layout, tmp_path, "bf16"), tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_folder_comes_back_from_four_ranks(pool4, tmp_path, family):
    save_tiny_model(tmp_path, family)
    layout = ParallelLayout(world_size=4, tp=2, pp=2, sequence_parallel=True)
    check(pool4.run(load_and_export, layout, tmp_path, "fp32"), tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS_OF_4)
@pytest.mark.parametrize("family", ["qwen3_moe"])
def test_folder_of_a_mixture_comes_back_from_four_ranks(pool4, tmp_path, layout, family):
    save_tiny_model(tmp_path, family)
    check(pool4.run(load_and_export, layout, tmp_path, "fp32"), tmp_path)


# Of these models' parameters the largest is the embedding: 99 rows of 32 numbers, 100 where two
# ranks share them, 4 bytes each. Together they have 330 kB and more.
EMBEDDING_BYTES = 99 * 32 * 4
ROOMY_BUCKET_BYTES = 20_000


def peak_of_export(_rank, _world_size, layout, folder):
    """Bytes of tensors that lived beside the parameters at a time, and bytes exported."""
    groups = start_process_groups(layout, seed=1)
    model = ModelConfig(path=str(folder), dtype="fp32")
    policy = load_policy(folder, read_model_spec(folder), groups, model)
    own = {
        parameter.untyped_storage()._cdata
        for chunk in policy.chunks
        for parameter in chunk.parameters()
    }
    num_bytes = 0
    with LiveTensors(
        lambda one: one.is_floating_point() and one.untyped_storage()._cdata not in own
    ) as live:
        for _, tensor in export_hf(policy, bucket_bytes=ROOMY_BUCKET_BYTES):
            num_bytes += tensor.nbytes
            del tensor
    return live.peak_bytes, num_bytes


@pytest.mark.parametrize("layout", [*LAYOUTS_OF_EXPERTS[:2], LAYOUTS_OF_EXPERTS[3]])
def test_export_holds_one_bucket_and_one_tensor(pool2, tmp_path, layout):
    save_tiny_model(tmp_path, "mixtral")
    for peak, exported in pool2.run(peak_of_export, layout, tmp_path):
        # Not just the tensor: something was gathered.
        assert EMBEDDING_BYTES < peak <= ROOMY_BUCKET_BYTES + EMBEDDING_BYTES
        assert exported > 10 * ROOMY_BUCKET_BYTES


def test_export_from_one_rank_holds_one_tensor(pool1, tmp_path):
    save_tiny_model(tmp_path, "mixtral")
    ((peak, _),) = pool1.run(peak_of_export, ParallelLayout(world_size=1), tmp_path)
    assert peak == EMBEDDING_BYTES


def save_from_the_first_rank(rank, _world_size, layout, folder, target):
    from megatron_longrlvr.model.build import build_chunks

    groups = start_process_groups(layout, seed=1)
    spec = read_model_spec(folder)
    chunks = build_chunks(spec, groups, ModelConfig(path=str(folder), dtype="fp32"))
    load_hf_weights(chunks, folder, spec, tp_rank=groups.tp_rank, tp_size=layout.tp)
    tensors = export_hf_tensors(chunks, spec, tp_group=groups.tp, pp_group=groups.pp)
    if rank == 0:
        save_hf_folder(target, tensors, spec, tokenizer_folder=folder)
    else:
        for _ in tensors:
            pass


def test_one_rank_saves_while_the_others_take_part(pool4, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    save_tiny_model(source, "qwen3")
    (source / "tokenizer.json").write_text("{}")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"eos_token_id": 2}))
    layout = ParallelLayout(world_size=4, tp=2, pp=2)
    pool4.run(save_from_the_first_rank, layout, source, target)
    saved, expected = (load_file(path / "model.safetensors") for path in (target, source))
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(saved[name], tensor), name
