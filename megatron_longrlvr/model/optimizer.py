"""megatron-core's data-parallel wrapper and optimizer around the policy's chunks."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch

from megatron_longrlvr.config.acceleration import Fp8Config
from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.model.gpu_libraries import require_apex, require_transformer_engine
from megatron_longrlvr.model.mcore import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    MegatronOptimizer,
    finalize_model_grads,
    get_megatron_optimizer,
    using_adam,
)
from megatron_longrlvr.model.mcore import OptimizerConfig as MegatronOptimizerConfig
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.precision import fp8_recipe_name, parameter_options
from megatron_longrlvr.parallel.groups import ProcessGroups

_IN_GRADIENTS = "reuse_grad_buf_for_mxfp8_param_ag"


def wrap_for_training(
    chunks: Sequence[PolicyModel],
    groups: ProcessGroups,
    *,
    is_distributed: bool,
    fp8: Fp8Config | None = None,
) -> tuple[DistributedDataParallel, ...]:
    """Give chunks their gradient buffers and data-parallel reduction (a sum, in fp32)."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=is_distributed,
        **parameter_options(fp8),
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
    wrapped: Sequence[DistributedDataParallel],
    config: OptimizerConfig,
    *,
    dtype: torch.dtype,
    fp8: Fp8Config | None = None,
) -> MegatronOptimizer:
    """AdamW with fp32 state over the wrapped chunks; norm weights and biases do not decay.

    Args:
        wrapped: Chunks with their gradient buffers.
        config: The recipe's section.
        dtype: Of the weights.
        fp8: How their matrix products are computed; None for ``dtype``.

    Raises:
        ConfigError: The library of ``optimizer.implementation`` does not import.
    """
    with using_adam(_adam(config)):
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
                fp8_recipe=fp8_recipe_name(fp8),
                reuse_grad_buf_for_mxfp8_param_ag=parameter_options(fp8)[_IN_GRADIENTS],
                **_host_options(config),
            ),
            list(wrapped),
        )
    for group in optimizer.param_groups:
        # megatron-core marks the groups and leaves it to its own scheduler, which we do not use.
        group["weight_decay"] *= group["wd_mult"]
    return optimizer


def describe_optimizer(optimizer: MegatronOptimizer) -> str:
    """Which library's classes take the steps, as they were built, for the log."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    inner = [part.optimizer for part in parts if part.optimizer is not None]
    names = {f"{type(each).__module__}.{type(each).__qualname__}" for each in inner}
    return ", ".join(sorted(names)) or "none on this rank"


def _adam(config: OptimizerConfig) -> type[torch.optim.Optimizer]:
    setting = f"optimizer.implementation={config.implementation}"
    if config.implementation == "torch":
        return torch.optim.AdamW
    module = "apex.optimizers"
    if config.implementation == "apex":
        require_apex(setting)
    else:
        require_transformer_engine(setting)
        module = "transformer_engine.pytorch.optimizers"
    fused: type[torch.optim.Optimizer] = importlib.import_module(module).FusedAdam
    return fused


def _host_options(config: OptimizerConfig) -> dict[str, Any]:
    if config.host_frac == 0:
        return {}
    # megatron-core asks for its version on the way.
    require_transformer_engine(f"optimizer.host_frac={config.host_frac}")
    return {
        "optimizer_cpu_offload": True,
        "optimizer_offload_fraction": config.host_frac,
        "use_torch_optimizer_for_cpu_offload": config.implementation == "torch",
        # Megatron-LM's arguments.py asks for it beside offloading: the two share a code path.
        "use_precision_aware_optimizer": True,
    }


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
