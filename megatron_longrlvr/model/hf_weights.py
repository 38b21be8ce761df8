"""Filling Megatron model chunks from a Hugging Face folder, and gathering them back.

Both directions follow the table of :mod:`megatron_longrlvr.model.weight_map` and know of a chunk
only its parameter names and its layers' and experts' numbers.
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
from megatron_longrlvr.model.hf_gather import gather_hf_tensors
from megatron_longrlvr.model.hf_reader import HfReader
from megatron_longrlvr.model.hf_spelling import other_spellings
from megatron_longrlvr.model.parameter_names import has_experts, table_name
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import (
    Rule,
    assemble,
    hf_shapes,
    hf_slices,
    rules_for_body,
    rules_for_model,
    shapes_of,
    tied_output_rule,
    value_head_rule,
)

DEFAULT_BUCKET_BYTES = 256 * 2**20
"""Large enough that a collective's latency does not count, small beside any model."""

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
    parameters = parameters_by_name(chunks)
    rules = {rule.megatron_name: rule for rule in rules_for_model(spec)}
    if spec.tie_word_embeddings:
        rules["output_layer.weight"] = tied_output_rule(spec)
    _check_parameters(parameters, rules)
    with HfReader(folder, spellings=other_spellings(spec)) as reader:
        check_folder(reader, spec)
        for name, parameter in parameters.items():
            _fill(parameter, rules[name], reader, spec, tp_rank=tp_rank, tp_size=tp_size)


@torch.no_grad()
def load_hf_critic(
    chunks: Sequence[torch.nn.Module],
    folder: Path,
    spec: ModelSpec,
    *,
    tp_rank: int,
    tp_size: int,
) -> None:
    """As :func:`load_hf_weights`, for a critic's chunks.

    The folder's output layer is passed over. Its value head is taken where it has one; otherwise
    that of the chunks stays as it is.
    """
    head = value_head_rule(spec)
    rules = {rule.megatron_name: rule for rule in (*rules_for_body(spec), head)}
    parameters = parameters_by_name(chunks)
    _check_parameters(parameters, rules)
    with HfReader(folder, spellings=other_spellings(spec)) as reader:
        if "score.weight" not in reader:
            del rules[head.megatron_name]
        reader.check(shapes_of(rules.values()), ignored={_TIED_OUTPUT})
        for name, parameter in parameters.items():
            if name in rules:
                _fill(parameter, rules[name], reader, spec, tp_rank=tp_rank, tp_size=tp_size)


def _fill(
    parameter: Tensor,
    rule: Rule,
    reader: HfReader,
    spec: ModelSpec,
    *,
    tp_rank: int,
    tp_size: int,
) -> None:
    indices = hf_slices(rule, spec, tp_rank=tp_rank, tp_size=tp_size)
    parts = [reader.read(*part) for part in zip(rule.hf_names, indices, strict=True)]
    value = assemble(rule, parts, spec, tp_size=tp_size)
    assert value.shape == parameter.shape, (
        f"{rule.megatron_name} has shape {tuple(parameter.shape)}, the table gives "
        f"{tuple(value.shape)}"
    )
    parameter.copy_(value)


def check_folder(reader: HfReader, spec: ModelSpec) -> None:
    """Make sure that a folder holds the tensors of a model, all of them and no other.

    Raises:
        CheckpointError: It does not; names tensor and file.
    """
    reader.check(hf_shapes(spec), ignored={_TIED_OUTPUT} if spec.tie_word_embeddings else set())
    if spec.tie_word_embeddings and _TIED_OUTPUT in reader:
        _check_tied(reader)


def export_hf_tensors(
    chunks: Sequence[torch.nn.Module],
    spec: ModelSpec,
    *,
    tp_group: dist.ProcessGroup | None,
    pp_group: dist.ProcessGroup | None,
    ep_group: dist.ProcessGroup | None = None,
    bucket_bytes: int = DEFAULT_BUCKET_BYTES,
) -> Iterator[tuple[str, Tensor]]:
    """Gather the full Hugging Face tensors, in forward order, on every rank.

    A collective over all three groups: every rank must exhaust the iterator. Beside what the
    caller keeps, one bucket and the tensor that was yielded last are held at a time.

    Args:
        chunks: The rank's pipeline chunks, unwrapped.
        spec: The model.
        tp_group: Ranks that share each parameter; None where there is one.
        pp_group: Ranks that share the layers; None where there is one.
        ep_group: Ranks that share the experts; None where there is one.
        bucket_bytes: Tensors that travel together; a larger tensor travels alone.

    Yields:
        Hugging Face name and full tensor, on the parameters' device and in their dtype, owning its
        memory.
    """
    yield from gather_hf_tensors(
        parameters_by_name(chunks),
        spec,
        groups={"tp": tp_group, "ep": ep_group, "pp": pp_group},
        bucket_bytes=bucket_bytes,
    )


def parameters_by_name(chunks: Sequence[torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """Local parameters by the name they have in the whole, unsplit model."""
    parameters: dict[str, torch.nn.Parameter] = {}
    for chunk in chunks:
        decoder: Any = chunk.decoder
        for local_name, parameter in chunk.named_parameters():
            name = local_name
            if match := _LAYER_NAME.fullmatch(local_name):
                layer = decoder.layers[int(match[1])]
                experts = layer.mlp.local_expert_indices if has_experts(match[2]) else ()
                rest = table_name(match[2], experts)
                name = f"decoder.layers.{layer.layer_number - 1}.{rest}"
            assert name not in parameters, f"two chunks of one rank hold {name}"
            parameters[name] = parameter
    return parameters


def _check_parameters(parameters: Mapping[str, Tensor], rules: Mapping[str, Rule]) -> None:
    """Make sure that the built model and the table describe the same model."""
    unknown = parameters.keys() - rules.keys()
    assert not unknown, f"the weight table has no rule for {sorted(unknown)}"
    layers = {match[1] for name in parameters if (match := _LAYER_NAME.fullmatch(name))}
    for name, rule in rules.items():
        match = _LAYER_NAME.fullmatch(name)
        # Which experts are here is for the built model to say.
        is_here = match is not None and match[1] in layers and rule.expert is None
        assert not is_here or name in parameters, f"the model was built without {name}"


def _check_tied(reader: HfReader) -> None:
    if not torch.equal(reader.read(_TIED_OUTPUT), reader.read(_EMBEDDING)):
        raise CheckpointError(
            f"{reader.folder}: {_TIED_OUTPUT} differs from {_EMBEDDING}, but config.json says "
            "tie_word_embeddings=true; set it to false to keep both"
        )
