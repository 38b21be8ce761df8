"""Random weights for a model that starts from nothing, as Hugging Face tensors.

Drawn tensor by tensor from a generator keyed on the name, so that they depend on the seed
and the shapes alone: not on the layout, nor on the order of layers on a rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import hf_shapes


def random_hf_tensors(spec: ModelSpec, *, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and float32 tensor of every weight.

    Matrices are normal with ``spec.initializer_range``, norms are 1 and biases 0.
    """
    for name, shape in hf_shapes(spec).items():
        if len(shape) == 1:
            yield name, torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        yield name, torch.randn(shape, generator=generator) * spec.initializer_range
