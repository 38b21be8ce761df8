"""What a model computes on a text, layer by layer, by the library its format belongs to.

A Hugging Face folder is run by transformers, a torch_dist checkpoint is loaded by megatron-core
and run by the learner: that both agree says more than that their tensors are equal.

Shapes: T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.checkpoint.weights import read_weights
from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.conversion.folder import ConvertedManifest
from megatron_longrlvr.conversion.source import CheckpointSource
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.build import build_chunks
from megatron_longrlvr.model.logprobs import shard_logits
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.parallel.groups import close_process_groups, start_process_groups
from megatron_longrlvr.parallel.layout import ParallelLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """One forward pass in fp32."""

    layers: tuple[Tensor, ...]
    """[T, H] behind the embedding, then behind each layer."""

    logits: Tensor
    """[T, V]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """How far two forward passes are apart, as largest absolute differences."""

    logits: float
    layers: tuple[float, ...]
    """Behind the embedding, then behind each layer."""

    num_other_choices: int
    """Tokens after which the likeliest next token is another."""


def tokenize(folder: Path, text: str) -> list[int]:
    """Token ids of a text by the tokenizer of a model folder.

    Raises:
        ConfigError: The folder has none, or the text has fewer than 2 tokens.
    """
    from transformers import AutoTokenizer

    try:
        token_ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} has no tokenizer that can be read: {error}") from error
    if len(token_ids) < 2:
        raise ConfigError(f"the text has {len(token_ids)} tokens; give one of at least 2")
    return list(token_ids)


@torch.no_grad()
def run_transformers(folder: Path, token_ids: Sequence[int]) -> Activations:
    """Run a Hugging Face folder."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    with _watched([model.model.embed_tokens, *model.model.layers]) as seen:
        logits = model(torch.tensor([list(token_ids)])).logits[0]
    return Activations(layers=tuple(value[0] for value in seen), logits=logits)


@torch.no_grad()
def run_learner(source: CheckpointSource, token_ids: Sequence[int]) -> Activations:
    """Run a torch_dist checkpoint in this process alone; starts and closes process groups."""
    groups = start_process_groups(ParallelLayout(world_size=1), seed=0)
    try:
        settings = ModelConfig(path=str(source.folder), dtype="fp32")
        chunks = build_chunks(source.spec, groups, settings)
        is_converted = isinstance(source.manifest, ConvertedManifest)
        read_weights(source.weights, chunks, groups, are_alone=is_converted)
        policy = Policy(spec=source.spec, groups=groups, model=settings, chunks=chunks)
        (chunk,) = policy.chunks
        chunk.eval()
        (batch,) = policy.localize([unlearned_row(token_ids, num_given=len(token_ids))])
        decoder: Any = chunk.decoder
        with _watched([chunk.embedding, *decoder.layers]) as seen:
            hidden = chunk(batch.token_ids, batch.attention, torch.arange(len(token_ids)))
        weight, shard = chunk.output_shard(source.spec.vocab_size)
        layers = tuple(value[:, 0] for value in seen)  # [T, 1, H]
        return Activations(layers=layers, logits=shard_logits(hidden, weight, shard))
    finally:
        close_process_groups()


def disagreement(first: Activations, second: Activations) -> Disagreement:
    """Compare two passes over the same tokens."""
    return Disagreement(
        logits=_largest(first.logits, second.logits),
        layers=tuple(
            _largest(ours, theirs) for ours, theirs in zip(first.layers, second.layers, strict=True)
        ),
        num_other_choices=int((first.logits.argmax(1) != second.logits.argmax(1)).sum()),
    )


def _largest(first: Tensor, second: Tensor) -> float:
    # NaN propagates: it is above no tolerance and below none, so callers ask for "not within".
    return float((first - second).abs().max())


@contextmanager
def _watched(modules: Sequence[torch.nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the modules' outputs in the order in which they run."""
    seen: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: Any) -> None:  # noqa: ANN401
        seen.append((output[0] if isinstance(output, tuple) else output).float())

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
