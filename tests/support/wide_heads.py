"""The shipped toy model with wider heads, for kernels that do not take narrow ones.

Zero rows and columns are put between the old ones so that every pair that the rotation turns keeps
its frequency; the scale of the products is made up for in the queries. The model computes the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_longrlvr.config.load import RECIPES

HEAD_DIM = 32


def write_wide_toy(folder: Path) -> Path:
    """Write the model of the recipe tiny_cpu with heads of ``HEAD_DIM`` dims."""
    source = RECIPES / "toy_start"
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    heads, dim = config["num_attention_heads"], config["head_dim"]
    assert config["num_key_value_heads"] == heads, "written for as many key heads"
    tensors = {
        name: _widen(name, tensor, heads, dim).contiguous()
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "head_dim": HEAD_DIM}))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


def _widen(name: str, tensor: Tensor, heads: int, dim: int) -> Tensor:
    if "q_proj" in name:
        # Scores are divided by the root of the dims.
        return _spread(tensor, heads, dim) * (HEAD_DIM / dim) ** 0.5
    if "k_proj" in name or "v_proj" in name:
        return _spread(tensor, heads, dim)
    if "o_proj" in name:
        return _spread(tensor.T, heads, dim).T
    return tensor


def _spread(rows: Tensor, heads: int, dim: int) -> Tensor:
    # The rotation turns dim i together with dim i + dim / 2, by theta ** (-2 i / dim).
    stride, half = HEAD_DIM // dim, dim // 2
    places = [stride * (i % half) + (HEAD_DIM // 2 if i >= half else 0) for i in range(dim)]
    wide = rows.new_zeros(heads, HEAD_DIM, rows.shape[1])
    wide[:, torch.tensor(places)] = rows.reshape(heads, dim, -1)
    return wide.flatten(0, 1)
