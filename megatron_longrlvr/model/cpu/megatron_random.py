"""megatron-core's RNG tracker, moving the CPU's default generator."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from megatron_longrlvr.model.cpu.patches import record, replace

_EXPECTED_WARNING = "CPU RNG state changed within GPU RNG context"


def patch_megatron_random() -> None:
    """Let `CudaRNGStatesTracker` fork, add and restore states of the CPU generator.

    The tracker itself is upstream's, nested forks included.
    """
    from megatron.core.tensor_parallel import random as megatron_random

    reason = "reads torch.cuda.default_generators, which is empty"
    replace(megatron_random, "_get_cuda_rng_state", _generator_state, reason=reason)
    replace(megatron_random, "_set_cuda_rng_state", _set_generator_state, reason=reason)
    name = megatron_random.__name__
    logging.getLogger(name).addFilter(_is_unexpected)
    record(f"logging[{name}]", reason="warns that the CPU generator moved, as it now must")


def _generator_state(
    _device: object = None, clone: bool = False, graph_safe: bool = False
) -> Tensor:
    del clone, graph_safe  # torch.get_rng_state() copies; there are no CUDA graphs
    return torch.get_rng_state()


def _set_generator_state(new_state: Tensor, _device: int = -1, graph_safe: bool = False) -> None:
    del graph_safe
    torch.set_rng_state(new_state)


def _is_unexpected(entry: logging.LogRecord) -> bool:
    return entry.getMessage() != _EXPECTED_WARNING
