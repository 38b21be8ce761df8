"""Random weights for a model that starts from nothing, as Hugging Face tensors.

Drawn tensor by tensor from a generator keyed on the name, so that they depend on the seed
and the shapes alone: not on the layout, nor on the order of layers on a rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import hf_shapes


def random_hf_tensors(spec: ModelSpec, *, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and float32 tensor of every weight.

    Matrices are normal with ``spec.initializer_range``, norms are 1 and biases 0. The two
    matrices of a layer that write to the residual stream are scaled by ``1 / sqrt(2 * layers)``,
    so that its variance does not grow with depth (GPT-2; megatron-core's scaled initialisation).
    """
    for name, shape in hf_shapes(spec).items():
        if len(shape) == 1:
            yield name, torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        std = spec.initializer_range
        if name.endswith(("o_proj.weight", "down_proj.weight", "w2.weight")):
            std /= math.sqrt(2 * spec.num_layers)
        yield name, torch.randn(shape, generator=generator) * std
