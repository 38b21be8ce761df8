"""Filling Megatron model chunks from a Hugging Face folder, and gathering them back.

Both directions follow the table of :mod:`megatron_longrlvr.model.weight_map` and know of a chunk
only its parameter names and its layers' numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import (
    Cut,
    Rule,
    assemble,
    hf_shapes,
    hf_slices,
    merge,
    rules_for_model,
    shard_shape,
    tied_output_rule,
)

_LAYER_NAME = re.compile(r"decoder\.layers\.(\d+)\.(.*)")
_TIED_OUTPUT = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"


@torch.no_grad()
def load_hf_weights(
    chunks: Sequence[torch.nn.Module],
    folder: Path,
    spec: ModelSpec,
    *,
    tp_rank: int,
    tp_size: int,
) -> None:
    """Fill this rank's chunks from ``folder``, converting to each parameter's dtype.

    Reads from disk only what the rank holds, one parameter at a time. Takes no part in any
    collective. Every rank checks the names and shapes of the whole folder first, so that all of
    them refuse a bad one, and none is left waiting.

    Args:
        chunks: The rank's pipeline chunks, unwrapped; any share of the model's layers.
        folder: Hugging Face folder with safetensors.
        spec: What ``folder/config.json`` describes.
        tp_rank: The rank's place among those that share each parameter.
        tp_size: Tensor-parallel degree.

    Raises:
        CheckpointError: The folder is not one of this model, or is damaged; names tensor and file.
        ConfigError: ``tp_size`` does not divide the model.
    """
    parameters = _parameters_by_name(chunks)
    rules = {rule.megatron_name: rule for rule in rules_for_model(spec)}
    if spec.tie_word_embeddings:
        rules["output_layer.weight"] = tied_output_rule(spec)
    _check_parameters(parameters, rules)
    with HfReader(folder) as reader:
        reader.check(hf_shapes(spec), ignored={_TIED_OUTPUT} if spec.tie_word_embeddings else set())
        if spec.tie_word_embeddings and _TIED_OUTPUT in reader:
            _check_tied(reader)
        for name, parameter in parameters.items():
            rule = rules[name]
            indices = hf_slices(rule, spec, tp_rank=tp_rank, tp_size=tp_size)
            parts = [reader.read(*part) for part in zip(rule.hf_names, indices, strict=True)]
            value = assemble(rule, parts, spec, tp_size=tp_size)
            assert value.shape == parameter.shape, (
                f"{name} has shape {tuple(parameter.shape)}, the table gives {tuple(value.shape)}"
            )
            parameter.copy_(value)


@torch.no_grad()
def export_hf_tensors(
    chunks: Sequence[torch.nn.Module],
    spec: ModelSpec,
    *,
    tp_group: dist.ProcessGroup | None,
    pp_group: dist.ProcessGroup | None,
) -> Iterator[tuple[str, Tensor]]:
    """Gather the full Hugging Face tensors, in forward order, on every rank.

    A collective over both groups: every rank must exhaust the iterator. One parameter is held at
    a time beside what the caller keeps.

    Args:
        chunks: The rank's pipeline chunks, unwrapped.
        spec: The model.
        tp_group: Ranks that share each parameter; None where there is one.
        pp_group: Ranks that share the layers; None where there is one.

    Yields:
        Hugging Face name and full tensor, on the CPU, in the parameters' dtype, owning its memory.
    """
    parameters = _parameters_by_name(chunks)
    stage_by_name = _stage_by_name(parameters, pp_group)
    any_parameter = next(iter(parameters.values()))
    tp_size = 1 if tp_group is None else tp_group.size()
    for rule in rules_for_model(spec):
        local = parameters.get(rule.megatron_name)
        if local is None:
            local = any_parameter.new_empty(shard_shape(rule, spec, tp_size=tp_size))
        shard = local.detach().contiguous()
        if pp_group is not None and pp_group.size() > 1:
            # Everyone of the pipeline is here: the loop over rules is the same on every rank.
            source = dist.get_global_rank(pp_group, stage_by_name[rule.megatron_name])
            dist.broadcast(shard, src=source, group=pp_group)
        for name, tensor in merge(rule, _all_shards(shard, rule, tp_group), spec).items():
            full = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            yield name, full.copy_(tensor)


def _parameters_by_name(chunks: Sequence[torch.nn.Module]) -> dict[str, Tensor]:
    """Local parameters by the name they have in the whole, unsplit model."""
    parameters: dict[str, Tensor] = {}
    for chunk in chunks:
        decoder: Any = chunk.decoder
        for local_name, parameter in chunk.named_parameters():
            name = local_name
            if match := _LAYER_NAME.fullmatch(local_name):
                layer = decoder.layers[int(match[1])].layer_number - 1
                name = f"decoder.layers.{layer}.{match[2]}"
            assert name not in parameters, f"two chunks of one rank hold {name}"
            parameters[name] = parameter
    return parameters


def _check_parameters(parameters: Mapping[str, Tensor], rules: Mapping[str, Rule]) -> None:
    """Make sure that the built model and the table describe the same model."""
    unknown = parameters.keys() - rules.keys()
    assert not unknown, f"the weight table has no rule for {sorted(unknown)}"
    layers = {match[1] for name in parameters if (match := _LAYER_NAME.fullmatch(name))}
    for name in rules:
        match = _LAYER_NAME.fullmatch(name)
        is_here = match is not None and match[1] in layers
        assert not is_here or name in parameters, f"the model was built without {name}"


def _check_tied(reader: HfReader) -> None:
    if not torch.equal(reader.read(_TIED_OUTPUT), reader.read(_EMBEDDING)):
        raise CheckpointError(
            f"{reader.folder}: {_TIED_OUTPUT} differs from {_EMBEDDING}, but config.json says "
            "tie_word_embeddings=true; set it to false to keep both"
        )


def _stage_by_name(
    parameters: Mapping[str, Tensor], pp_group: dist.ProcessGroup | None
) -> dict[str, int]:
    """Rank within ``pp_group`` of the first stage that holds each parameter."""
    if pp_group is None or pp_group.size() == 1:
        return dict.fromkeys(parameters, 0)
    names_of_stages: list[list[str]] = [[] for _ in range(pp_group.size())]
    dist.all_gather_object(names_of_stages, list(parameters), group=pp_group)
    stages: dict[str, int] = {}
    for stage, names in enumerate(names_of_stages):
        for name in names:
            stages.setdefault(name, stage)
    return stages


def _all_shards(shard: Tensor, rule: Rule, tp_group: dist.ProcessGroup | None) -> list[Tensor]:
    if tp_group is None or tp_group.size() == 1 or rule.cut is Cut.REPLICATED:
        return [shard]
    shards = [torch.empty_like(shard) for _ in range(tp_group.size())]
    # All tensor-parallel ranks of the stage reach this line with the same rule.
    dist.all_gather(shards, shard, group=tp_group)
    return shards
