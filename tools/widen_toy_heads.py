"""Make the toy start with wider heads, which vLLM's kernels for CPU need.

    python tools/widen_toy_heads.py megatron_longrlvr/recipes/toy_start_wide

Zero rows and columns are put between the old ones so that every pair that the rotation turns keeps
its frequency; the scale of the products is made up for in the queries. The model computes the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.load import RECIPES

HEAD_DIM = 32


def main() -> None:
    """Read arguments and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder to make")
    write_wide_heads(RECIPES / "toy_start", parser.parse_args().output)


def write_wide_heads(source: Path, folder: Path) -> None:
    """Write a Hugging Face folder whose heads have ``HEAD_DIM`` dims.

    Args:
        source: A Llama with as many key heads as query heads, narrower ones.
        folder: What is made; must not exist.
    """
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    heads, dim = config["num_attention_heads"], config["head_dim"]
    assert config["num_key_value_heads"] == heads, "written for as many key heads"
    tensors = {
        name: _widen(name, tensor, heads, dim).contiguous()
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "head_dim": HEAD_DIM}, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)


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


if __name__ == "__main__":
    main()
