"""megatron-core's data-parallel wrapper and optimizer around the policy's chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.model.mcore import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    MegatronOptimizer,
    finalize_model_grads,
    get_megatron_optimizer,
)
from megatron_longrlvr.model.mcore import OptimizerConfig as MegatronOptimizerConfig
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.parallel.groups import ProcessGroups


def wrap_for_training(
    chunks: Sequence[PolicyModel], groups: ProcessGroups, *, is_distributed: bool
) -> tuple[DistributedDataParallel, ...]:
    """Give chunks their gradient buffers and data-parallel reduction (a sum, in fp32)."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=is_distributed
    )
    wrapped = tuple(
        DistributedDataParallel(
            chunk.config,
            ddp_config,
            chunk,
            disable_bucketing=index > 0,
            pg_collection=groups.megatron,
        )
        for index, chunk in enumerate(chunks)
    )

    def finalize(model: list[torch.nn.Module], num_tokens: Any = None, **kwargs: Any) -> None:  # noqa: ANN401, ARG001
        # Our losses carry their denominators, so gradients are summed and never divided.
        finalize_model_grads(model, None, **kwargs)

    for chunk in chunks:
        chunk.config.finalize_model_grads_func = finalize
    return wrapped


def build_optimizer(
    wrapped: Sequence[DistributedDataParallel], config: OptimizerConfig, *, dtype: torch.dtype
) -> MegatronOptimizer:
    """AdamW with fp32 state over the wrapped chunks; norm weights and biases do not decay."""
    optimizer = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=config.lr,
            min_lr=config.min_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_eps=config.eps,
            clip_grad=config.clip_grad,
            bf16=dtype == torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=config.distributed,
        ),
        list(wrapped),
    )
    for group in optimizer.param_groups:
        # megatron-core marks the groups and leaves it to its own scheduler, which we do not use.
        group["weight_decay"] *= group["wd_mult"]
    return optimizer


def learning_rate(config: OptimizerConfig, *, step: int, num_steps: int) -> float:
    """Learning rate of optimizer step ``step``, counted from 0, out of ``num_steps``."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(num_steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / span, 1.0)
    if config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "linear":
        share = 1 - progress
    else:
        return config.lr
    return config.min_lr + (config.lr - config.min_lr) * share


def set_learning_rate(optimizer: MegatronOptimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def gradients_are_finite(wrapped: Sequence[DistributedDataParallel]) -> bool:
    """Whether this rank's reduced gradients hold neither NaN nor infinity."""
    # The least and the greatest are NaN where anything is; unlike isfinite, this needs no copy.
    return all(
        all(bool(torch.isfinite(edge)) for edge in buffer.grad_data.aminmax())
        for chunk in wrapped
        for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]
    )
