"""The one door to megatron.core: everything the model package uses of it.

On a machine without CUDA, megatron.core must not be imported before it was made ready for
CPU tensors; importing it from here sees to that.
"""

# ruff: noqa: E402 - install() has to come before the imports it prepares
from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from megatron_longrlvr.model.cpu.adamw_resume import mend_adamw_resume
from megatron_longrlvr.model.cpu.install import install

install()
mend_adamw_resume()

import megatron.core.optimizer as _optimizers
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace, nested_values
from megatron.core.dist_checkpointing.mapping import (
    LocalNonpersistentObject,
    ShardedBase,
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
    apply_factories,
    is_main_replica,
)
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy
from megatron.core.dist_checkpointing.utils import (
    extract_sharded_base,
    extract_sharded_tensors_and_factories,
)
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.extensions.transformer_engine import TEDotProductAttention, TENorm
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import distrib_optimizer as _distrib_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    get_cuda_rng_tracker,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    get_transformer_layer_offset,
)

__all__ = [
    "SAVE_OPTIONS",
    "CheckpointingException",
    "DistributedDataParallel",
    "DistributedDataParallelConfig",
    "DistributedOptimizer",
    "GPTModel",
    "LocalNonpersistentObject",
    "MegatronModule",
    "MegatronOptimizer",
    "MoEAuxLossAutoScaler",
    "ModuleSpec",
    "OptimizerConfig",
    "PackedSeqParams",
    "ShardedBase",
    "ShardedObject",
    "ShardedTensor",
    "ShardedTensorFactory",
    "StrictHandling",
    "TEDotProductAttention",
    "TENorm",
    "TopKRouter",
    "TorchDistLoadShardedStrategy",
    "TransformerBlockSubmodules",
    "TransformerConfig",
    "TransformerLayer",
    "apply_factories",
    "copy_to_tensor_model_parallel_region",
    "dequantize_fp8_tensor",
    "dict_list_map_outplace",
    "dist_checkpointing",
    "extract_sharded_base",
    "extract_sharded_tensors_and_factories",
    "filesystem_async",
    "finalize_model_grads",
    "gather_from_sequence_parallel_region",
    "get_cuda_rng_tracker",
    "get_forward_backward_func",
    "get_gpt_layer_local_spec",
    "get_gpt_layer_with_transformer_engine_spec",
    "get_megatron_optimizer",
    "get_num_layers_to_build",
    "get_transformer_layer_offset",
    "is_float8tensor",
    "is_main_replica",
    "nested_values",
    "set_router",
    "using_adam",
]


# From 0.19 on a save goes by NVIDIA's resiliency extension unless told otherwise.
SAVE_OPTIONS: dict[str, str] = (
    {"async_strategy": "mcore"}
    if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters
    else {}
)
"""Keyword arguments of ``dist_checkpointing.save``."""


def set_router(layer: ModuleSpec, router: type[TopKRouter]) -> None:
    """Choose what sends tokens to experts, in the spec of a layer that has them."""
    mlp = layer.submodules.mlp
    # From 0.19 on a partial function stands in place of the experts' spec.
    is_partial = isinstance(mlp, functools.partial)
    submodules = mlp.keywords["submodules"] if is_partial else mlp.submodules
    submodules.router = router


@contextlib.contextmanager
def using_adam(adam: type[torch.optim.Optimizer]) -> Iterator[None]:
    """Let ``get_megatron_optimizer`` build this AdamW.

    By itself megatron-core takes the first that imports of Transformer Engine's, Apex's and
    torch's.

    Args:
        adam: Torch's ``AdamW``, or the ``FusedAdam`` of either library.
    """
    # Read while the optimizer is built, and not again.
    places: list[tuple[Any, str, object]] = [
        (_optimizers, "Adam", adam),
        (_optimizers, "USING_PYTORCH_OPTIMIZER", adam is torch.optim.AdamW),
        (_distrib_optimizer, "Adam", adam),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
