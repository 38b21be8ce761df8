"""Writing a Hugging Face model folder that transformers and vLLM load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.hf_reader import INDEX_FILE, SINGLE_FILE
from megatron_longrlvr.model.spec import ModelSpec, to_hf_config
from megatron_longrlvr.model.weight_map import hf_shapes

_TOKEN_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_BYTES_PER_GB = 1000**3


def save_hf_folder(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    spec: ModelSpec,
    *,
    tokenizer_folder: Path,
    max_shard_gb: float = 5.0,
) -> None:
    """Write a model folder that transformers and vLLM load.

    Holds at most one file's worth of tensors at a time. Everything is written under a temporary
    name beside ``folder`` and renamed at the end, so a folder that exists is complete. One rank
    calls this; where ``tensors`` is a collective, the others must exhaust it too.

    Args:
        folder: Must not exist yet.
        tensors: Every tensor of the model once, by Hugging Face name.
        spec: The model.
        tokenizer_folder: Model folder that tokenizer files, token ids and generation settings
            are taken from.
        max_shard_gb: Largest size of one weight file, in units of 1000**3 bytes.

    Raises:
        CheckpointError: ``folder`` exists, the tokenizer folder has no tokenizer, or the tensors
            are not those of the model.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists already; choose another folder or remove it")
    tokenizer_files = _tokenizer_files(tokenizer_folder)
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        dtype = _write_weights(
            unfinished, tensors, hf_shapes(spec), int(max_shard_gb * _BYTES_PER_GB)
        )
        for path in tokenizer_files:
            shutil.copyfile(path, unfinished / path.name)
        _write_descriptions(unfinished, spec, tokenizer_folder, dtype)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_weights(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    shape_by_name: Mapping[str, tuple[int, ...]],
    max_shard_bytes: int,
) -> torch.dtype:
    """Write the weight files and, where there are several, their index. Returns the dtype."""
    missing = dict(shape_by_name)
    shard: dict[str, Tensor] = {}
    shards: list[tuple[Path, list[str]]] = []
    num_bytes = total_bytes = 0
    dtype = torch.float32

    def flush() -> None:
        # The number of files, which their names carry, is known only at the end.
        path = folder / f"part-{len(shards)}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        shards.append((path, list(shard)))
        shard.clear()

    for name, tensor in tensors:
        shape = missing.pop(name, None)
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"cannot save tensor {name} of shape {tuple(tensor.shape)}, expected {shape}"
            )
        if shard and num_bytes + tensor.nbytes > max_shard_bytes:
            flush()
            num_bytes = 0
        # A copy of its own: safetensors refuses views and tensors that share memory.
        shard[name] = tensor.detach().cpu().contiguous().clone()
        num_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
        dtype = tensor.dtype
    if missing:
        raise CheckpointError(f"cannot save a model without tensor {next(iter(missing))}")
    flush()
    _name_weight_files(folder, shards, total_bytes)
    return dtype


def _name_weight_files(
    folder: Path, shards: list[tuple[Path, list[str]]], total_bytes: int
) -> None:
    if len(shards) == 1:
        shards[0][0].rename(folder / SINGLE_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, (path, names) in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    _write_json(
        folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    )


def _tokenizer_files(folder: Path) -> list[Path]:
    paths = [folder / file for file in _TOKENIZER_FILES if (folder / file).exists()]
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & {path.name for path in paths}:
        raise CheckpointError(f"{folder} has no tokenizer.json, tokenizer.model or vocab.json")
    return paths


def _write_descriptions(
    folder: Path, spec: ModelSpec, tokenizer_folder: Path, dtype: torch.dtype
) -> None:
    token_ids = _token_ids(tokenizer_folder)
    dtype_name = str(dtype).removeprefix("torch.")
    _write_json(
        folder / "config.json", {**to_hf_config(spec), **token_ids, "torch_dtype": dtype_name}
    )
    generation = tokenizer_folder / "generation_config.json"
    if generation.exists():
        shutil.copyfile(generation, folder / generation.name)
    else:
        _write_json(folder / generation.name, token_ids)


def _token_ids(tokenizer_folder: Path) -> dict[str, Any]:
    """Token ids of the model the tokenizer came with, else those of the tokenizer itself."""
    config = tokenizer_folder / "config.json"
    if config.exists():
        stated = json.loads(config.read_text(encoding="utf-8"))
        if any(stated.get(key) is not None for key in _TOKEN_ID_KEYS):
            return {key: stated.get(key) for key in _TOKEN_ID_KEYS}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    # Written out even where there is none: transformers' own default would be an arbitrary token.
    return {key: getattr(tokenizer, key) for key in _TOKEN_ID_KEYS}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
