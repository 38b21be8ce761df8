"""Loading, exporting and saving Hugging Face weights on one process.

Promised: chunks of any share of the layers are filled with what shard() cuts; export gives the
folder's tensors back bit for bit; a saved folder is loaded by transformers with the same logits;
a bad folder is refused with the tensor and the file that is wrong.

The chunks here are bare modules with megatron-core's parameter names. The real model, and
gathering over several ranks, are tested under tests/distributed.
"""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_weights import export_hf_tensors, load_hf_weights
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.spec import read_model_spec
from megatron_longrlvr.model.weight_map import (
    rules_for_layer,
    rules_for_model,
    shard,
    shard_shape,
    tied_output_rule,
)

FAMILIES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
SMALL_SHARDS_GB = 2e-5  # 20 kB: several files for these models
NUM_LAYERS = 4


def make_folder(path, family="llama", *, tied=False, **save_options):
    torch.manual_seed(0)
    config = FAMILIES[family](
        vocab_size=30,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=6,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(path, **save_options)
    return model


def add_tokenizer(path):
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "word": 3}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(path)


class Chunk(torch.nn.Module):
    """Parameters of layers ``first`` to ``last`` (exclusive), as a pipeline chunk names them."""

    def __init__(self, spec, first, last, *, tp_size=1, dtype=torch.float32):
        super().__init__()
        self.decoder = torch.nn.Module()
        self.decoder.layers = torch.nn.ModuleList()
        for layer in range(first, last):
            module = torch.nn.Module()
            module.layer_number = layer + 1
            self.decoder.layers.append(module)
            for rule in rules_for_layer(spec):
                self.add(module, rule, spec, tp_size, dtype)
        has_output_copy = spec.tie_word_embeddings and first > 0
        rules = [rule for rule in rules_for_model(spec) if "layers." not in rule.megatron_name]
        for rule in [*rules, *([tied_output_rule(spec)] if has_output_copy else [])]:
            is_embedding = rule.megatron_name.startswith("embedding")
            if (is_embedding and first == 0) or (not is_embedding and last == spec.num_layers):
                self.add(self, rule, spec, tp_size, dtype)

    @staticmethod
    def add(module, rule, spec, tp_size, dtype):
        *path, leaf = rule.megatron_name.split(".")
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, torch.nn.Module())
            module = getattr(module, part)
        empty = torch.full(shard_shape(rule, spec, tp_size=tp_size), torch.nan, dtype=dtype)
        module.register_parameter(leaf, torch.nn.Parameter(empty))


def make_chunks(spec, bounds, **options):
    return [Chunk(spec, first, last, **options) for first, last in pairwise(bounds)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("save_options", [{}, {"max_shard_size": "20KB"}], ids=["one", "sharded"])
def test_export_gives_the_loaded_tensors_back(tmp_path, family, tied, save_options):
    model = make_folder(tmp_path, family, tied=tied, **save_options)
    spec = read_model_spec(tmp_path)
    chunks = make_chunks(spec, [0, 1, 4])
    load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)
    exported = dict(export_hf_tensors(chunks, spec, tp_group=None, pp_group=None))
    expected = dict(model.named_parameters())
    assert exported.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(exported[name], tensor), name


@pytest.mark.parametrize("tp_size", [2, 4])
def test_each_rank_reads_its_own_share(tmp_path, tp_size):
    tensors = dict(make_folder(tmp_path, "qwen2").named_parameters())
    spec = read_model_spec(tmp_path)
    for rank in range(tp_size):
        (chunk,) = make_chunks(spec, [0, NUM_LAYERS], tp_size=tp_size)
        load_hf_weights([chunk], tmp_path, spec, tp_rank=rank, tp_size=tp_size)
        parameters = dict(chunk.named_parameters())
        for rule in rules_for_model(spec):
            full = [tensors[name] for name in rule.hf_names]
            expected = shard(rule, full, spec, tp_rank=rank, tp_size=tp_size)
            assert torch.equal(parameters.pop(rule.megatron_name), expected), rule
        assert not parameters


def test_rank_whose_whole_share_is_padding_is_filled_with_zeros(tmp_path):
    model = make_folder(tmp_path)
    model.resize_token_embeddings(5)
    model.save_pretrained(tmp_path)
    spec = read_model_spec(tmp_path)
    (chunk,) = make_chunks(spec, [0, NUM_LAYERS], tp_size=4)
    load_hf_weights([chunk], tmp_path, spec, tp_rank=3, tp_size=4)
    # 5 rows padded to 8, 2 a rank: rank 3 has none of the 5.
    assert not chunk.embedding.word_embeddings.weight.any()


def test_chunks_in_any_order_get_the_layers_they_number(tmp_path):
    tensors = dict(make_folder(tmp_path).named_parameters())
    spec = read_model_spec(tmp_path)
    # The last rank of two with two virtual stages each: layers 1 and 3.
    chunks = [Chunk(spec, 1, 2), Chunk(spec, 3, 4)]
    load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)
    for chunk, layer in zip(chunks, (1, 3), strict=True):
        expected = tensors[f"model.layers.{layer}.mlp.down_proj.weight"]
        assert torch.equal(chunk.decoder.layers[0].mlp.linear_fc2.weight, expected)


def test_tied_output_of_the_last_stage_is_filled_from_the_embedding(tmp_path):
    tensors = dict(make_folder(tmp_path, tied=True).named_parameters())
    spec = read_model_spec(tmp_path)
    chunk = Chunk(spec, 2, NUM_LAYERS)
    load_hf_weights([chunk], tmp_path, spec, tp_rank=0, tp_size=1)
    assert torch.equal(chunk.output_layer.weight, tensors["model.embed_tokens.weight"])


def test_weights_take_the_dtype_of_the_parameters(tmp_path):
    tensors = dict(make_folder(tmp_path).named_parameters())
    spec = read_model_spec(tmp_path)
    chunks = make_chunks(spec, [0, NUM_LAYERS], dtype=torch.bfloat16)
    load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)
    for name, tensor in export_hf_tensors(chunks, spec, tp_group=None, pp_group=None):
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, tensors[name].bfloat16()), name


def test_exported_tensors_do_not_follow_later_updates(tmp_path):
    make_folder(tmp_path)
    spec = read_model_spec(tmp_path)
    chunks = make_chunks(spec, [0, NUM_LAYERS])
    load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)
    exported = dict(export_hf_tensors(chunks, spec, tp_group=None, pp_group=None))
    with torch.no_grad():
        for parameter in chunks[0].parameters():
            parameter.zero_()
    assert all(tensor.any() for tensor in exported.values())


def load_edited(tmp_path, edit, **folder_options):
    """Load a folder whose single weight file was changed by ``edit``."""
    make_folder(tmp_path, **folder_options)
    spec = read_model_spec(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    chunks = make_chunks(spec, [0, NUM_LAYERS])
    load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)


K_PROJ = "model.layers.2.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param(lambda tensors: tensors.pop(K_PROJ), ["no tensor", K_PROJ], id="missing"),
        pytest.param(
            lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.ones(1)}),
            ["model.layers.0.extra.weight", "model.safetensors"],
            id="extra",
        ),
        pytest.param(
            lambda tensors: tensors.update({K_PROJ: torch.ones(24, 23)}),
            [K_PROJ, "model.safetensors", "(24, 23)", "(24, 24)"],
            id="wrong-shape",
        ),
        pytest.param(
            lambda tensors: tensors.update({K_PROJ: torch.ones(24, 24, dtype=torch.int8)}),
            [K_PROJ, "model.safetensors", "I8"],
            id="quantized",
        ),
    ],
)
def test_folder_of_another_model_is_refused_by_tensor_and_file(tmp_path, edit, words):
    with pytest.raises(CheckpointError) as refused:
        load_edited(tmp_path, edit)
    for word in words:
        assert word in str(refused.value)


def test_stored_rotary_frequencies_are_ignored(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load_edited(tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))


def test_stored_output_of_a_tied_model_must_equal_the_embedding(tmp_path):
    def add_same(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    load_edited(tmp_path, add_same, tied=True)

    def add_other(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs"):
        load_edited(tmp_path, add_other, tied=True)


@pytest.mark.parametrize("save_options", [{}, {"max_shard_size": "20KB"}], ids=["one", "sharded"])
def test_truncated_file_is_named(tmp_path, save_options):
    make_folder(tmp_path, **save_options)
    path = sorted(tmp_path.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-100])
    spec = read_model_spec(tmp_path)
    with pytest.raises(CheckpointError, match=r"truncated or damaged") as refused:
        load_hf_weights(make_chunks(spec, [0, NUM_LAYERS]), tmp_path, spec, tp_rank=0, tp_size=1)
    assert str(path) in str(refused.value)


def test_file_that_the_index_names_must_exist_and_hold_the_tensor(tmp_path):
    make_folder(tmp_path, max_shard_size="20KB")
    spec = read_model_spec(tmp_path)
    chunks = make_chunks(spec, [0, NUM_LAYERS])
    index_path = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    right = index["weight_map"][K_PROJ]
    wrong = next(file for file in index["weight_map"].values() if file != right)

    index["weight_map"][K_PROJ] = wrong
    index_path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"{wrong} lacks tensor {K_PROJ}"):
        load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)

    index["weight_map"][K_PROJ] = right
    index_path.write_text(json.dumps(index))
    (tmp_path / right).unlink()
    with pytest.raises(CheckpointError, match=f"{right} is in the index but does not exist"):
        load_hf_weights(chunks, tmp_path, spec, tp_rank=0, tp_size=1)


def test_pickled_weights_are_refused_with_the_way_out(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    spec = read_model_spec(tmp_path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*safe_serialization"):
        load_hf_weights([], tmp_path, spec, tp_rank=0, tp_size=1)


def test_folder_without_weights_is_refused(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    spec = read_model_spec(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_hf_weights([], tmp_path, spec, tp_rank=0, tp_size=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_shard_gb", [5.0, SMALL_SHARDS_GB], ids=["one-file", "sharded"])
def test_saved_folder_is_the_same_model_to_transformers(tmp_path, family, tied, max_shard_gb):
    source, target = tmp_path / "source", tmp_path / "target"
    model = make_folder(source, family, tied=tied)
    add_tokenizer(source)
    spec = read_model_spec(source)
    tensors = list(model.named_parameters())
    save_hf_folder(target, tensors, spec, tokenizer_folder=source, max_shard_gb=max_shard_gb)

    loaded = AutoModelForCausalLM.from_pretrained(target)
    token_ids = torch.arange(30)[None]
    assert torch.equal(loaded(token_ids).logits, model(token_ids).logits)
    assert loaded.config.eos_token_id == 2
    assert loaded.config.dtype == torch.float32
    assert read_model_spec(target) == spec
    assert PreTrainedTokenizerFast.from_pretrained(target)("word")["input_ids"] == [3]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_weight_files_are_as_full_as_the_limit_allows(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    model = make_folder(source)
    add_tokenizer(source)
    spec = read_model_spec(source)
    tensors = list(model.named_parameters())
    save_hf_folder(target, tensors, spec, tokenizer_folder=source, max_shard_gb=SMALL_SHARDS_GB)
    limit_bytes = 20_000
    # Embedding, then q, k, v and o of layer 0; gate (3840 bytes) would make it 20544.
    first_file_bytes = 2880 + 4608 + 2304 + 2304 + 4608
    index = json.loads((target / "model.safetensors.index.json").read_text())
    files = list(dict.fromkeys(index["weight_map"].values()))
    assert files == sorted(path.name for path in target.glob("*.safetensors"))
    held = [[tensor for name, tensor in tensors if index["weight_map"][name] == f] for f in files]
    sizes = [sum(tensor.nbytes for tensor in one) for one in held]
    assert sizes[0] == first_file_bytes
    assert max(sizes) <= limit_bytes
    for size, following in zip(sizes, held[1:], strict=False):
        assert size + following[0].nbytes > limit_bytes
    assert sum(sizes) == index["metadata"]["total_size"]


def test_token_ids_come_from_the_tokenizer_where_no_model_states_them(tmp_path):
    source, tokenizer, target = tmp_path / "source", tmp_path / "tokenizer", tmp_path / "target"
    model = make_folder(source)
    add_tokenizer(tokenizer)
    spec = read_model_spec(source)
    save_hf_folder(target, model.named_parameters(), spec, tokenizer_folder=tokenizer)
    for file in ("config.json", "generation_config.json"):
        stated = json.loads((target / file).read_text())
        assert (stated["bos_token_id"], stated["eos_token_id"], stated["pad_token_id"]) == (
            1,
            2,
            None,
        )


def drop_last(tensors):
    return tensors[:-1]


def twice(tensors):
    return [*tensors, tensors[0]]


def reshaped(tensors):
    return [(tensors[0][0], torch.ones(2, 2)), *tensors[1:]]


@pytest.mark.parametrize("damage", [drop_last, twice, reshaped])
def test_incomplete_save_leaves_nothing_behind(tmp_path, damage):
    source, target = tmp_path / "source", tmp_path / "target"
    model = make_folder(source)
    add_tokenizer(source)
    tensors = damage(list(model.named_parameters()))
    with pytest.raises(CheckpointError, match=r"cannot save .*tensor (lm_head|model\.embed)"):
        save_hf_folder(target, tensors, read_model_spec(source), tokenizer_folder=source)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_existing_folder_and_missing_tokenizer_are_refused(tmp_path):
    source = tmp_path / "source"
    model = make_folder(source)
    spec = read_model_spec(source)
    with pytest.raises(CheckpointError, match="exists already"):
        save_hf_folder(source, [], spec, tokenizer_folder=source)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        save_hf_folder(tmp_path / "target", model.named_parameters(), spec, tokenizer_folder=source)


def test_model_built_otherwise_than_the_table_says_is_a_bug(tmp_path):
    make_folder(tmp_path)
    spec = read_model_spec(tmp_path)
    (chunk,) = make_chunks(spec, [0, NUM_LAYERS])
    del chunk.decoder.layers[0].mlp.linear_fc1
    with pytest.raises(AssertionError, match=r"built without decoder\.layers\.0\.mlp\.linear_fc1"):
        load_hf_weights([chunk], tmp_path, spec, tp_rank=0, tp_size=1)
    chunk.stray = torch.nn.Linear(1, 1)
    with pytest.raises(AssertionError, match=r"no rule for \['stray"):
        load_hf_weights([chunk], tmp_path, spec, tp_rank=0, tp_size=1)
